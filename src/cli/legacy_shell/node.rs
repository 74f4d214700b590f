//! Node of the legacy shell: its start, the requests of the shell to it, and the display of its
//! transfers.

use std::fs;
use std::io::Write;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::super::error::CliError;
use super::super::own_daemon::{OwnDaemon, OwnDaemonOptions};
use super::settings::OldSettings;
use crate::daemon::config::Seed;
use crate::daemon::control::{
    Call, EventKind, PeerInfo, PeerState, Peers, Plane, ShareInfo, ShareState, Shares,
};

/// Maximum time that the prompt waits for the daemon to read the folder.
const FOLDER_WAIT: Duration = Duration::from_secs(10);
const FOLDER_PAUSE: Duration = Duration::from_millis(100);

/// Node of one shell.
pub(super) struct ShellNode {
    daemon: OwnDaemon,
    folder: PathBuf,
    members: Vec<Seed>,
}

impl ShellNode {
    /// Starts the node, and reports its transfers to other nodes until it ends.
    ///
    /// # Errors
    /// If the folder is not there, the port is invalid, or the daemon does not start.
    pub(super) fn start(
        folder: PathBuf,
        members: Vec<Seed>,
        settings: &OldSettings,
    ) -> Result<Self, CliError> {
        let folder = fs::canonicalize(&folder)
            .map_err(|error| CliError::plain(format!("{}: {error}", folder.display())))?;
        let listen = settings.listen()?;
        let spelled = members.iter().map(|m| format!("{:?}", m.to_string()));
        let spelled: Vec<String> = spelled.collect();
        let options = OwnDaemonOptions {
            name: "shell",
            config: format!(
                "[mount]\nenabled = false\n[lan]\nmdns = false\n[legacy]\nmembers = [{}]\n",
                spelled.join(", ")
            ),
            shows_log: false,
        };
        let daemon = OwnDaemon::start(&options, |command| {
            command.args(["--legacy", "--cache-size", "10GiB", "--listen", &listen]);
            command.arg("--yes").arg("--share").arg(&folder);
            command.envs(settings.times());
        })?;
        let node = Self {
            daemon,
            folder,
            members,
        };
        node.wait_for_the_folder();
        node.daemon
            .show_events(|event| words_for(&event.what).to_vec())?;
        Ok(node)
    }

    /// Waits until the files in the folder can be sent, for at most [`FOLDER_WAIT`]. The older
    /// program could send files at once. The daemon continues to read a large folder while the
    /// prompt already answers.
    fn wait_for_the_folder(&self) {
        let ends = Instant::now() + FOLDER_WAIT;
        while Instant::now() < ends {
            let shares: Shares = self.call(&Call::Shares {});
            let is_read =
                |share: &ShareInfo| share.state == ShareState::Ready && share.pending_files == 0;
            if shares.shares.iter().all(is_read) {
                break;
            }
            std::thread::sleep(FOLDER_PAUSE);
        }
    }

    /// Returns the answer of the daemon, or an empty answer on failure.
    fn call<T: DeserializeOwned + Default>(&self, call: &Call) -> T {
        let client = self.daemon.client().ok();
        client
            .and_then(|mut client| client.call(call).ok())
            .unwrap_or_default()
    }

    /// Lists the members as typed, then the other legacy peers that are alive.
    pub(super) fn list(&self, output: &mut impl Write) -> Result<(), CliError> {
        let peers: Peers = self.call(&Call::Peers {});
        let is_heard =
            |peer: &PeerInfo| peer.plane == Plane::Legacy && peer.state == PeerState::Alive;
        let heard = peers.peers.into_iter().filter(is_heard);
        let typed: Vec<String> = self.members.iter().map(Seed::to_string).collect();
        let aliases: Vec<String> = self.members.iter().flat_map(addresses_of).collect();
        let is_new = |address: &String| !aliases.contains(address);
        let mut members = typed.clone();
        members.extend(heard.map(|peer| peer.address).filter(is_new));
        writeln!(output, "Cluster members:").map_err(CliError::Output)?;
        if members.is_empty() {
            writeln!(output, "  (no members)").map_err(CliError::Output)?;
        }
        for (number, member) in members.iter().enumerate() {
            writeln!(output, "  {}. {member}", number + 1).map_err(CliError::Output)?;
        }
        Ok(())
    }

    /// Fetches a file. Prints nothing if no node has it, like the older program.
    pub(super) fn get(&self, name: &str, output: &mut impl Write) -> Result<(), CliError> {
        let base = name.rsplit('/').next().unwrap_or(name);
        let target = self.folder.join(base).display().to_string();
        let got = self.daemon.ask(&["get", "-o", &target, "--", base])?;
        let said = String::from_utf8_lossy(&got.stderr);
        if got.status.success() {
            writeln!(output, "Received file completely!").map_err(CliError::Output)?;
        } else if !NO_NODE_HAS_IT.iter().any(|absent| said.contains(absent)) {
            let why = said.trim().trim_start_matches("p2pfs: ");
            writeln!(output, "Failed to download file: {why}").map_err(CliError::Output)?;
        }
        Ok(())
    }
}

/// Messages of `p2pfs get` for a file that no node has.
const NO_NODE_HAS_IT: [&str; 2] = ["no node shares such a name", "no live node can give it"];

/// Returns the messages of the older program for a file that is being sent.
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
