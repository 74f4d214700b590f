//! Completion requests of each shell, and their answers.
//!
//! Users of other nodes choose the names in the cluster, and a name may contain any byte of a file
//! name. bash inserts a completion into the line unchanged, so [`bash`] quotes each completion. zsh
//! and fish quote completions themselves.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use clap::Command;
use clap_complete::engine::{CompletionCandidate, complete};
use clap_complete::env::{EnvCompleter, Shells};

use super::words::{meant, quoted, typed};
use p2pfs_types::path::is_trick;

/// Shells with a completion script.
pub(super) const SHELLS: Shells<'static> = Shells(&[&BASH, &ZSH, &FISH]);
pub(super) const BASH: Script = Script {
    name: "bash",
    text: include_str!("p2pfs.bash"),
    answer: bash,
};
pub(super) const ZSH: Script = Script {
    name: "zsh",
    text: include_str!("p2pfs.zsh"),
    answer: described,
};
pub(super) const FISH: Script = Script {
    name: "fish",
    text: include_str!("p2pfs.fish"),
    answer: described,
};

/// A shell: its script, and the function that answers requests of the script.
pub(super) struct Script {
    name: &'static str,
    pub(super) text: &'static str,
    answer: fn(CompletionRequest<'_>) -> io::Result<Vec<Vec<u8>>>,
}

/// Request of a completion script.
struct CompletionRequest<'a> {
    command: &'a mut Command,
    words: Vec<OsString>,
    directory: Option<&'a Path>,
}

impl CompletionRequest<'_> {
    /// Returns the completions of the last word. Leaves out names with line breaks, other control
    /// characters or invisible characters, because a shell cannot display them.
    fn fitting(self, words: Vec<OsString>) -> io::Result<Vec<CompletionCandidate>> {
        let last = words.len().saturating_sub(1);
        let mut fitting = complete(self.command, words, last, self.directory)?;
        let is_shown = |value: &OsStr| !value.to_string_lossy().contains(is_trick);
        fitting.retain(|candidate| is_shown(candidate.get_value()));
        Ok(fitting)
    }
}

/// Answers bash. The request consists of the line up to the cursor, and of the end of this line
/// that bash replaces. The replaced end excludes an opening quote and everything up to a colon or
/// an equals sign, where bash begins a new word.
fn bash(mut asked: CompletionRequest<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut handed = std::mem::take(&mut asked.words).into_iter();
    let line = handed.next().unwrap_or_default();
    let replaced = handed.next().unwrap_or_default();
    let typed = typed(line.as_bytes());
    let last = typed.last().copied().unwrap_or_default();
    let Some(kept) = last.strip_suffix(replaced.as_bytes()) else {
        return Ok(Vec::new());
    };
    let (kept, quotes) = meant(kept);
    let words = typed.iter().map(|word| OsString::from_vec(meant(word).0));
    let words = words.collect();
    let fitting = asked.fitting(words)?;
    let rests = fitting.iter().filter_map(|candidate| {
        let value = candidate.get_value().as_bytes();
        let rest = value.strip_prefix(&kept[..])?;
        // A quoted tilde would not mean a home directory.
        match rest.strip_prefix(b"~") {
            Some(rest) if last.starts_with(b"~") => {
                Some([b"~", &quoted(rest, quotes)[..]].concat())
            }
            _ => Some(quoted(rest, quotes)),
        }
    });
    Ok(rests.collect())
}

/// Answers zsh and fish. The request consists of the words up to the cursor. The last word has its
/// quotes as typed, and the shell has removed the quotes of the others. A tab and the description
/// follow each completion that has a description.
fn described(mut asked: CompletionRequest<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut words = std::mem::take(&mut asked.words);
    if let Some(last) = words.last_mut() {
        *last = OsString::from_vec(meant(last.as_bytes()).0);
    }
    let described = |candidate: &CompletionCandidate| {
        let mut offer = candidate.get_value().as_bytes().to_vec();
        let help = candidate.get_help().map(ToString::to_string);
        if let Some(first) = help.as_deref().and_then(|help| help.lines().next()) {
            offer.push(b'\t');
            offer.extend(first.as_bytes());
        }
        offer
    };
    Ok(asked.fitting(words)?.iter().map(described).collect())
}

impl EnvCompleter for Script {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is(&self, name: &str) -> bool {
        name == self.name
    }

    fn write_registration(
        &self,
        _var: &str,
        _name: &str,
        _bin: &str,
        _completer: &str,
        buf: &mut dyn Write,
    ) -> io::Result<()> {
        buf.write_all(self.text.as_bytes())
    }

    fn write_complete(
        &self,
        command: &mut Command,
        words: Vec<OsString>,
        directory: Option<&Path>,
        buf: &mut dyn Write,
    ) -> io::Result<()> {
        let asked = CompletionRequest {
            command,
            words,
            directory,
        };
        for offer in (self.answer)(asked)? {
            buf.write_all(&offer)?;
            buf.write_all(b"\n")?;
        }
        Ok(())
    }
}
