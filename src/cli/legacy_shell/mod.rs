//! `p2pfs legacy-shell`: the prompt of the older program, word for word, with a p2pfs node.
//!
//! The shell asks for a folder and members, or takes both from `P2P_FOLDER` and `P2P_CLUSTER`. It
//! starts a daemon without a mount that shares the folder with the members ([`node`]). The daemon
//! ends with the shell. As in the older program, only fetched files remain, in the folder.

mod node;
mod settings;

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use node::ShellNode;
use settings::OldSettings;

use super::error::CliError;
use crate::daemon::config::Seed;

pub(super) fn run() -> Result<(), CliError> {
    let stdin = io::stdin();
    // Standard output is not locked, because a thread reports transfers to other nodes on it while
    // the prompt waits for a line.
    let (mut input, mut output) = (stdin.lock(), io::stdout());
    let Some((folder, members)) = folder_and_members(&mut input, &mut output)? else {
        return Ok(());
    };
    let node = ShellNode::start(folder, members, &OldSettings::read()?)?;
    converse(&node, &mut input, &mut output)?;
    writeln!(output, "Shutting down...").map_err(CliError::Output)?;
    drop(node);
    writeln!(output, "Shutdown complete").map_err(CliError::Output)?;
    Ok(())
}

/// Returns the folder and the members, and asks for them unless both are in the environment.
/// Returns `None` if the input ends before the user has named a folder.
fn folder_and_members(
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<Option<(PathBuf, Vec<Seed>)>, CliError> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    if let (Some(folder), Some(cluster)) = (variable("P2P_FOLDER"), variable("P2P_CLUSTER")) {
        let members = cluster.split(',').map(str::trim).filter(|m| !m.is_empty());
        let members: Result<Vec<Seed>, _> = members.map(str::parse).collect();
        let members = members.map_err(|error| CliError::plain(format!("P2P_CLUSTER: {error}")))?;
        writeln!(output, "Using environment configuration:").map_err(CliError::Output)?;
        writeln!(output, "  Folder: {folder}").map_err(CliError::Output)?;
        writeln!(output, "  Cluster: {cluster}").map_err(CliError::Output)?;
        return Ok(Some((PathBuf::from(folder), members)));
    }
    let Some(folder) = ask_folder(input, output)? else {
        return Ok(None);
    };
    let members = ask_members(input, output)?;
    Ok(Some((folder, members)))
}

fn ask_folder(
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<Option<PathBuf>, CliError> {
    loop {
        writeln!(output, "Enter the folder you want to share:").map_err(CliError::Output)?;
        let Some(line) = next_line(input, output)? else {
            return Ok(None);
        };
        let folder = PathBuf::from(line);
        match std::fs::metadata(&folder) {
            Ok(found) if found.is_dir() => return Ok(Some(folder)),
            Ok(_) => writeln!(output, "Path is not a directory, please try again")
                .map_err(CliError::Output)?,
            Err(_) => writeln!(output, "Couldn't find the folder, please try again")
                .map_err(CliError::Output)?,
        }
    }
}

fn ask_members(input: &mut impl BufRead, output: &mut impl Write) -> Result<Vec<Seed>, CliError> {
    writeln!(
        output,
        "Enter your cluster members list (one per line, enter 'q' to finish):"
    )
    .map_err(CliError::Output)?;
    let mut members = Vec::new();
    while let Some(line) = next_line(input, output)?.filter(|line| line != "q" && line != "Q") {
        if line.is_empty() {
            continue;
        }
        match line.parse::<Seed>() {
            Ok(member) => {
                members.push(member);
                writeln!(output, "Added: {line}").map_err(CliError::Output)?;
            }
            Err(_) => writeln!(
                output,
                "Invalid address format. Use IP:Port (e.g., 127.0.0.1:1378)"
            )
            .map_err(CliError::Output)?,
        }
    }
    Ok(members)
}

/// Returns the next line without surrounding blanks, or `None` at the end of the input.
fn next_line(
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<Option<String>, CliError> {
    output.flush().map_err(CliError::Output)?;
    let mut line = String::new();
    let length = input
        .read_line(&mut line)
        .map_err(CliError::cannot("read the input"))?;
    Ok((length > 0).then(|| line.trim().to_owned()))
}

fn converse(
    node: &ShellNode,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<(), CliError> {
    loop {
        writeln!(
            output,
            "Enter a file you want to download or 'list' to see the cluster ('quit' to exit)"
        )
        .map_err(CliError::Output)?;
        let Some(line) = next_line(input, output)? else {
            return Ok(());
        };
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match (word, rest.trim()) {
            ("quit" | "exit", "") => return Ok(()),
            ("list", "") => node.list(output)?,
            ("get", "") => writeln!(output, "Usage: get <filename>").map_err(CliError::Output)?,
            ("get", name) => node.get(name, output)?,
            ("", "") => {}
            _ => writeln!(
                output,
                "Unknown command. Use 'list', 'get <filename>', or 'quit'"
            )
            .map_err(CliError::Output)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_questions_are_word_for_word_those_of_the_older_program() {
        let dir = std::env::temp_dir();
        let typed = format!(
            "/nonexistent\n/dev/null\n{}\n\nnonsense\n127.0.0.1:21001\nQ\n",
            dir.display()
        );
        let (mut input, mut shown) = (typed.as_bytes(), Vec::new());
        let folder = ask_folder(&mut input, &mut shown).unwrap().unwrap();
        let members = ask_members(&mut input, &mut shown).unwrap();
        assert_eq!((folder, members.len()), (dir, 1));
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            "Enter the folder you want to share:\n\
             Couldn't find the folder, please try again\n\
             Enter the folder you want to share:\n\
             Path is not a directory, please try again\n\
             Enter the folder you want to share:\n\
             Enter your cluster members list (one per line, enter 'q' to finish):\n\
             Invalid address format. Use IP:Port (e.g., 127.0.0.1:1378)\n\
             Added: 127.0.0.1:21001\n"
        );
    }
}
