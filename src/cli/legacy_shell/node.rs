//! The daemon of one shell: started with it, ended with it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::super::ending;
use super::super::error::CliError;
use super::settings::OldSettings;
use crate::daemon::config::Seed;
use crate::daemon::control::{Call, Client, Event, EventKind};

/// Its control socket, in its folder.
const SOCKET: &str = "p2pfs.sock";
/// How long the prompt waits for the folder to be read.
const FOLDER_WAIT: Duration = Duration::from_secs(10);
const FOLDER_PAUSE: Duration = Duration::from_millis(100);

/// The daemon of one shell.
pub(super) struct ShellNode {
    home: PathBuf,
    folder: PathBuf,
    members: Vec<Seed>,
    child: Child,
}

impl ShellNode {
    /// Starts it, and tells from now on what others fetch from it.
    ///
    /// # Errors
    /// What the daemon says last where it does not start.
    pub(super) fn start(
        folder: PathBuf,
        members: Vec<Seed>,
        settings: &OldSettings,
    ) -> Result<Self, CliError> {
        let folder = fs::canonicalize(&folder)
            .map_err(|error| CliError::plain(format!("{}: {error}", folder.display())))?;
        let home = std::env::temp_dir().join(format!("p2pfs-shell-{}", std::process::id()));
        let signals = ending::held()?;
        fs::DirBuilder::new().mode(0o700).create(&home)?;
        let child = spawn(&home, &folder, &members, settings);
        let node = match child {
            Ok(child) => Self {
                home,
                folder,
                members,
                child,
            },
            Err(error) => {
                let _tidied = fs::remove_dir_all(&home);
                return Err(error);
            }
        };
        let home = node.home.clone();
        ending::end_daemon_with(signals, &node.child, move || {
            // a signal leaves nothing
            let _tidied = fs::remove_dir_all(&home);
        });
        let waited = node.ask(&["wait", "--timeout", "30s"])?;
        if waited.status.success() {
            node.wait_for_the_folder()?;
            node.tell_what_is_given()?;
            return Ok(node);
        }
        let log = fs::read_to_string(node.home.join("log")).unwrap_or_default();
        let last = log.lines().rfind(|line| !line.trim().is_empty());
        Err(CliError::plain(
            last.unwrap_or("the daemon did not start").to_owned(),
        ))
    }

    /// Waits until what is in the folder can be given, as the older program could at once; a large
    /// folder goes on being read behind the prompt.
    fn wait_for_the_folder(&self) -> Result<(), CliError> {
        let ends = Instant::now() + FOLDER_WAIT;
        while Instant::now() < ends {
            let shares = self.ask(&["share", "--json"])?;
            let shares: serde_json::Value =
                serde_json::from_slice(&shares.stdout).unwrap_or_default();
            let is_read = |share: &serde_json::Value| {
                share["state"] == "ready" && share["pending_files"] == 0
            };
            if shares["shares"]
                .as_array()
                .is_none_or(|all| all.iter().all(is_read))
            {
                break;
            }
            std::thread::sleep(FOLDER_PAUSE);
        }
        Ok(())
    }

    /// A command of this program, asked of the shell's daemon.
    fn ask(&self, arguments: &[&str]) -> Result<Output, CliError> {
        let mut command = Command::new(std::env::current_exe()?);
        // before the other arguments, which may be names after a --
        command.arg(arguments[0]);
        command.arg("--socket").arg(self.home.join(SOCKET));
        command.args(&arguments[1..]);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// The members as they were typed, then those that were heard besides.
    pub(super) fn list(&self, output: &mut impl Write) -> Result<(), CliError> {
        let peers = self.ask(&["peers", "--json"])?;
        let peers: serde_json::Value = serde_json::from_slice(&peers.stdout).unwrap_or_default();
        let all = peers["peers"].as_array().into_iter().flatten();
        let heard = all.filter(|peer| peer["plane"] == "legacy" && peer["state"] == "alive");
        let heard = heard.filter_map(|peer| peer["address"].as_str());
        let typed: Vec<String> = self.members.iter().map(Seed::to_string).collect();
        let aliases: Vec<String> = self.members.iter().flat_map(addresses_of).collect();
        let is_typed = |address: &&str| aliases.iter().all(|alias| alias != address);
        let mut members = typed.clone();
        members.extend(heard.filter(is_typed).map(str::to_owned));
        writeln!(output, "Cluster members:")?;
        if members.is_empty() {
            writeln!(output, "  (no members)")?;
        }
        for (number, member) in members.iter().enumerate() {
            writeln!(output, "  {}. {member}", number + 1)?;
        }
        Ok(())
    }

    /// Prints the words for each file that another gets, until the daemon ends.
    fn tell_what_is_given(&self) -> Result<(), CliError> {
        let mut client = Client::connect(&[self.home.join(SOCKET)])?;
        client.set_patience(None)?;
        client.start(&Call::Events { follow: true })?;
        std::thread::spawn(move || {
            while let Ok(reply) = client.next_reply() {
                let Ok(event) = reply.decode::<Event>() else {
                    continue;
                };
                for words in words_for(&event.what) {
                    let _nobody_reads = writeln!(io::stdout(), "{words}");
                }
            }
        });
        Ok(())
    }

    /// Nobody having it prints nothing, as it always did.
    pub(super) fn get(&self, name: &str, output: &mut impl Write) -> Result<(), CliError> {
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
        ending::ask(&self.child);
        let _ended = self.child.wait();
        let _tidied = fs::remove_dir_all(&self.home);
    }
}

/// The words of the older program, for a file on its way to another.
fn words_for(event: &EventKind) -> &'static [&'static str] {
    match event {
        EventKind::GiveStarted(_) => &[
            "A client has connected!",
            "Sending filename and filesize!",
            "Start sending file",
        ],
        EventKind::GiveDone(_) => &["File has been sent, closing connection!"],
        _ => &[],
    }
}

fn addresses_of(member: &Seed) -> Vec<String> {
    let found = (member.host(), member.port()).to_socket_addrs();
    let found = found.map(|all| all.map(|address| address.to_string()).collect());
    found.unwrap_or_else(|_| vec![member.to_string()])
}

fn spawn(
    home: &Path,
    folder: &Path,
    members: &[Seed],
    settings: &OldSettings,
) -> Result<Child, CliError> {
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
        ("--socket", SOCKET),
    ] {
        command.arg(option).arg(home.join(name));
    }
    command.arg("--share").arg(folder);
    command.args(["--listen", &settings.listen()?]);
    command.envs(settings.times());
    command.env_remove("P2P_FOLDER").env_remove("P2P_CLUSTER");
    command.env("P2PFS_LAN_MDNS", "false").env("NO_COLOR", "1");
    command
        .stdin(Stdio::null())
        .stderr(log.try_clone()?)
        .stdout(log);
    // Ctrl-C reaches the shell alone
    ending::bind(&mut command);
    Ok(command.spawn()?)
}
