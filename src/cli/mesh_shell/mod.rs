//! `p2pfs mesh-shell`: the prompt of the older mesh program, with a p2pfs node.
//!
//! The shell takes a port and optionally the address of a peer. It starts a daemon without a mount
//! that speaks the mesh protocol ([`node`]), and shows the daemon's events in the words of the
//! older program ([`words`]). The daemon ends with the shell. As in the older program, only
//! received files remain, in the folder `downloads`.

mod node;
mod words;

use std::io::{self, BufRead, Write};
use std::path::Path;

use clap::Args;

use super::error::CliError;
use crate::daemon::config::Seed;
use crate::daemon::control::{Call, MeshInfo, Said};
use node::MeshNode;
use p2pfs_types::id::NodeName;

/// The arguments of `p2pfs mesh-shell`, which are those of the older program.
#[derive(Debug, Clone, Args)]
pub struct MeshShellOptions {
    /// The name of this node [default: the name of the machine]
    #[arg(long)]
    name: Option<NodeName>,
    /// Show the daemon's log
    #[arg(long)]
    debug: bool,
    /// Where to listen, on all addresses
    port: u16,
    /// A peer to connect to
    #[arg(value_name = "HOST:PORT")]
    peer: Option<Seed>,
}

pub(super) fn run(options: &MeshShellOptions) -> Result<(), CliError> {
    let node = MeshNode::start(options)?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout());
    let mut line = String::new();
    loop {
        line.clear();
        if input
            .read_line(&mut line)
            .map_err(CliError::cannot("read the input"))?
            == 0
        {
            return Ok(());
        }
        let typed = line.trim();
        let (word, rest) = typed.split_once(' ').unwrap_or((typed, ""));
        match (word, rest.trim()) {
            ("/quit", "") => return Ok(()),
            ("/peers", "") => list(&node, &mut output)?,
            ("/discover", "") => ask(&node, None, true, &mut output)?,
            ("/connect", address) if !address.is_empty() => {
                ask(&node, Some(address.to_owned()), false, &mut output)?;
            }
            ("/send", path) if !path.is_empty() => send(&node, Path::new(path), &mut output)?,
            ("", _) => {}
            // Every other line is chat, also one that begins with a slash and an unknown word.
            _ => say(&node, typed),
        }
        output.flush().map_err(CliError::Output)?;
    }
}

fn list(node: &MeshNode, output: &mut impl Write) -> Result<(), CliError> {
    let info = node.mesh(None, false)?;
    for line in words::peers(&info) {
        writeln!(output, "{line}").map_err(CliError::Output)?;
    }
    Ok(())
}

fn ask(
    node: &MeshNode,
    connect: Option<String>,
    discover: bool,
    output: &mut impl Write,
) -> Result<(), CliError> {
    let asked: Result<MeshInfo, CliError> = node.mesh(connect, discover);
    tell_error(asked.map(drop), output)
}

fn say(node: &MeshNode, text: &str) {
    let text = text.to_owned();
    // Every error is ignored, because the older program reports none if no peer is connected.
    let _unheard: Result<Said, CliError> = node.call(&Call::Say { text });
}

fn send(node: &MeshNode, path: &Path, output: &mut impl Write) -> Result<(), CliError> {
    let sent = node.send(path);
    match sent {
        Ok(done) => writeln!(output, "{}", words::sent(path, &done)).map_err(CliError::Output)?,
        Err(error) => tell_error(Err(error), output)?,
    }
    Ok(())
}

fn tell_error(outcome: Result<(), CliError>, output: &mut impl Write) -> Result<(), CliError> {
    if let Err(error) = outcome {
        writeln!(output, "{}", words::error(&error.to_string())).map_err(CliError::Output)?;
    }
    Ok(())
}
