//! `p2pfs completions`: a script for the user's shell.

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use super::error::CliError;
use super::output::Output;

/// The arguments of `p2pfs completions`.
#[derive(Debug, Clone, Copy, Args)]
pub struct CompletionsOptions {
    /// Which shell
    shell: KnownShell,
}

/// The shells that there is a script for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(options: CompletionsOptions, output: &mut Output) -> Result<(), CliError> {
    let shell = match options.shell {
        KnownShell::Bash => Shell::Bash,
        KnownShell::Zsh => Shell::Zsh,
        KnownShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "p2pfs", &mut script);
    output.bytes(&script)
}
