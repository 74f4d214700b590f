//! `p2pfs legacy-shell`: the prompt of the older program, word for word, over a node of this one.
//!
//! Asks for a folder and members (or takes them from `P2P_FOLDER` and `P2P_CLUSTER`), starts a
//! daemon without a mount that shares the folder with them, and ends it with the shell. Nothing of
//! it stays but the files that were fetched, which go into the folder, as they always did.

use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use clap::Args;

use super::error::CliError;
use crate::daemon::config::Seed;

/// Where the older program listens when nothing is said.
const HOST: &str = "127.0.0.1";
const PORT: &str = "1378";

/// The arguments of `p2pfs legacy-shell`: none, as the older program has none.
#[derive(Debug, Clone, Args)]
pub struct LegacyShellOptions {}

pub(super) fn run() -> Result<(), CliError> {
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (mut input, mut output) = (stdin.lock(), stdout.lock());
    let Some((folder, members)) = settings(&mut input, &mut output)? else {
        return Ok(());
    };
    let node = ShellNode::start(folder, &members)?;
    converse(&node, &mut input, &mut output)?;
    writeln!(output, "Shutting down...")?;
    drop(node);
    writeln!(output, "Shutdown complete")?;
    Ok(())
}

/// The folder and the members, asked for unless both are in the environment. None where the input
/// ends before.
fn settings(
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<Option<(PathBuf, Vec<Seed>)>, CliError> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    if let (Some(folder), Some(cluster)) = (variable("P2P_FOLDER"), variable("P2P_CLUSTER")) {
        let members = cluster.split(',').map(str::trim).filter(|m| !m.is_empty());
        let members: Result<Vec<Seed>, _> = members.map(str::parse).collect();
        let members = members.map_err(|error| CliError::plain(format!("P2P_CLUSTER: {error}")))?;
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
        writeln!(output, "Enter the folder you want to share:")?;
        let Some(line) = next_line(input, output)? else {
            return Ok(None);
        };
        let folder = PathBuf::from(line);
        if folder.is_dir() {
            return Ok(Some(folder));
        }
        writeln!(output, "Couldn't find the folder, please try again")?;
    }
}

fn ask_members(input: &mut impl BufRead, output: &mut impl Write) -> Result<Vec<Seed>, CliError> {
    writeln!(
        output,
        "Enter your cluster members list (one per line, enter 'q' to finish):"
    )?;
    let mut members = Vec::new();
    while let Some(line) = next_line(input, output)?.filter(|line| line != "q") {
        match line.parse::<Seed>() {
            Ok(member) => {
                members.push(member);
                writeln!(output, "Added: {line}")?;
            }
            Err(_) => writeln!(
                output,
                "Invalid address format. Use IP:Port (e.g., 127.0.0.1:1378)"
            )?,
        }
    }
    Ok(members)
}

/// The next line without the blanks around it; none at the end of the input.
fn next_line(
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> Result<Option<String>, CliError> {
    output.flush()?;
    let mut line = String::new();
    let length = input.read_line(&mut line)?;
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
        )?;
        let Some(line) = next_line(input, output)? else {
            return Ok(());
        };
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match (word, rest.trim()) {
            ("quit" | "exit", "") => return Ok(()),
            ("list", "") => node.list(output)?,
            ("get", "") => writeln!(output, "Usage: get <filename>")?,
            ("get", name) => node.get(name, output)?,
            ("", "") => {}
            _ => writeln!(
                output,
                "Unknown command. Use 'list', 'get <filename>', or 'quit'"
            )?,
        }
    }
}

/// The daemon of one shell.
struct ShellNode {
    home: PathBuf,
    folder: PathBuf,
    child: Child,
}

impl ShellNode {
    fn start(folder: PathBuf, members: &[Seed]) -> Result<Self, CliError> {
        let folder = fs::canonicalize(&folder)
            .map_err(|error| CliError::plain(format!("{}: {error}", folder.display())))?;
        let home = std::env::temp_dir().join(format!("p2pfs-shell-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&home)?;
        let child = spawn(&home, &folder, members);
        let node = match child {
            Ok(child) => Self {
                home,
                folder,
                child,
            },
            Err(error) => {
                let _tidied = fs::remove_dir_all(&home);
                return Err(error);
            }
        };
        let waited = node.ask(&["wait", "--timeout", "30s"])?;
        if waited.status.success() {
            return Ok(node);
        }
        let log = fs::read_to_string(node.home.join("log")).unwrap_or_default();
        let last = log.lines().rfind(|line| !line.trim().is_empty());
        Err(CliError::plain(
            last.unwrap_or("the daemon did not start").to_owned(),
        ))
    }

    /// A command of this program, asked of the shell's daemon.
    fn ask(&self, arguments: &[&str]) -> Result<Output, CliError> {
        let mut command = Command::new(std::env::current_exe()?);
        // before the other arguments, which may be names after a --
        command.arg(arguments[0]);
        command.arg("--socket").arg(self.home.join("p2pfs.sock"));
        command.args(&arguments[1..]);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    fn list(&self, output: &mut impl Write) -> Result<(), CliError> {
        let peers = self.ask(&["peers", "--json"])?;
        let peers: serde_json::Value = serde_json::from_slice(&peers.stdout).unwrap_or_default();
        let all = peers["peers"].as_array().into_iter().flatten();
        let older = all.filter(|peer| peer["plane"] == "legacy");
        let members: Vec<&str> = older.filter_map(|peer| peer["address"].as_str()).collect();
        writeln!(output, "Cluster members:")?;
        if members.is_empty() {
            writeln!(output, "  (no members)")?;
        }
        for (number, member) in members.iter().enumerate() {
            writeln!(output, "  {}. {member}", number + 1)?;
        }
        Ok(())
    }

    /// Nobody having it prints nothing, as it always did.
    fn get(&self, name: &str, output: &mut impl Write) -> Result<(), CliError> {
        let base = name.rsplit('/').next().unwrap_or(name);
        let target = self.folder.join(base).display().to_string();
        let got = self.ask(&["get", "-o", &target, "--", base])?;
        let said = String::from_utf8_lossy(&got.stderr);
        if got.status.success() {
            writeln!(output, "Received file completely!")?;
        } else if !said.contains("no node shares") {
            let why = said.trim().trim_start_matches("p2pfs: ");
            writeln!(output, "Failed to download file: {why}")?;
        }
        Ok(())
    }
}

impl Drop for ShellNode {
    fn drop(&mut self) {
        // SAFETY: the child was not waited for yet, so its pid is still its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let _ended = self.child.wait();
        let _tidied = fs::remove_dir_all(&self.home);
    }
}

fn spawn(home: &Path, folder: &Path, members: &[Seed]) -> Result<Child, CliError> {
    let members: Vec<String> = members
        .iter()
        .map(|m| format!("{:?}", m.to_string()))
        .collect();
    let members = members.join(", ");
    let text = format!("[mount]\nenabled = false\n[legacy]\nmembers = [{members}]\n");
    let config = home.join("p2pfs.toml");
    fs::write(&config, text)?;
    let log = File::create(home.join("log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["daemon", "--legacy", "--cache-size", "10GiB"]);
    for (option, name) in [
        ("--config", "p2pfs.toml"),
        ("--state", "state"),
        ("--cache", "cache"),
        ("--socket", "p2pfs.sock"),
    ] {
        command.arg(option).arg(home.join(name));
    }
    command.arg("--share").arg(folder);
    command.args(["--listen", &listen()?]);
    command.env_remove("P2P_FOLDER").env_remove("P2P_CLUSTER");
    command.env("P2PFS_LAN_MDNS", "false").env("NO_COLOR", "1");
    command
        .stdin(Stdio::null())
        .stderr(log.try_clone()?)
        .stdout(log);
    // a group of its own, so that Ctrl-C reaches the shell alone
    command.process_group(0);
    // SAFETY: prctl is async-signal-safe; it ends the daemon with the shell, however that ends.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    Ok(command.spawn()?)
}

/// A host that is a name made the older program listen on all addresses.
fn listen() -> Result<String, CliError> {
    let variable = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let host = variable("P2P_HOST", HOST);
    let ip = host.parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
    let port = variable("P2P_PORT", PORT);
    let port: u16 = port
        .parse()
        .map_err(|_| CliError::plain(format!("P2P_PORT: {port:?} is no port")))?;
    Ok(format!("{ip}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_questions_are_those_of_the_older_program_word_for_word() {
        let dir = std::env::temp_dir();
        let typed = format!(
            "/nonexistent\n{}\nnonsense\n127.0.0.1:21001\nq\n",
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
             Enter your cluster members list (one per line, enter 'q' to finish):\n\
             Invalid address format. Use IP:Port (e.g., 127.0.0.1:1378)\n\
             Added: 127.0.0.1:21001\n"
        );
    }
}
