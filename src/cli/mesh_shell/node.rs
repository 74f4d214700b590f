//! Node of the mesh shell: its start, the requests of the shell to it, and the display of its
//! events.

use std::io::{self, Write};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::super::error::CliError;
use super::super::own_daemon::{OwnDaemon, OwnDaemonOptions, patient_client};
use super::{MeshShellOptions, words};
use crate::daemon::control::{Call, MeshInfo, Named, SendDone};
use p2pfs_types::files::trusted_way::open_file;

/// Folder of received files, in the directory in which the shell was started.
const DOWNLOADS: &str = "downloads";
/// Maximum number of peers, as in the older program.
pub(super) const PEERS_MAX: u32 = 10;

/// Node of one shell.
pub(super) struct MeshNode {
    daemon: OwnDaemon,
}

impl MeshNode {
    /// Starts the node, and shows its events until it ends.
    ///
    /// # Errors
    /// The last message of the daemon if it does not start or cannot listen.
    pub(super) fn start(options: &MeshShellOptions) -> Result<Self, CliError> {
        let own = OwnDaemonOptions {
            name: "mesh",
            config: config(options)?,
            shows_log: options.debug,
        };
        let daemon = OwnDaemon::start(&own, |command| {
            command.args(["--listen", "127.0.0.1:0"]);
            if let Some(name) = &options.name {
                command.args(["--name", name.as_str()]);
            }
        })?;
        let node = Self { daemon };
        let info = node.mesh(None, false);
        let info = info.map_err(|_| node.daemon.last_words())?;
        let listening = words::listening(options.name.as_ref(), &info);
        writeln!(io::stdout(), "{listening}").map_err(CliError::Output)?;
        let socket = node.daemon.socket();
        let seed = options.peer.as_ref().map(ToString::to_string);
        node.daemon.show_events(move |event| {
            let info = || mesh_at(&socket, None, false).unwrap_or_default();
            words::event(event, seed.as_deref(), info)
        })?;
        Ok(node)
    }

    pub(super) fn call<T: DeserializeOwned>(&self, call: &Call) -> Result<T, CliError> {
        Ok(self.daemon.client()?.call(call)?)
    }

    pub(super) fn mesh(
        &self,
        connect: Option<String>,
        discover: bool,
    ) -> Result<MeshInfo, CliError> {
        mesh_at(&self.daemon.socket(), connect, discover)
    }

    pub(super) fn send(&self, path: &Path) -> Result<SendDone, CliError> {
        let file = open_file(path)
            .map_err(|error| CliError::plain(format!("{}: {error}", path.display())))?;
        let mut client = self.daemon.client()?;
        let call = Call::Send {
            name: Named::from_local(path),
            to: Vec::new(),
        };
        client.start_with(&call, &file)?;
        loop {
            let reply = client.next_reply()?;
            if !reply.continues {
                return Ok(reply.decode()?);
            }
        }
    }
}

fn mesh_at(socket: &Path, address: Option<String>, discover: bool) -> Result<MeshInfo, CliError> {
    let call = Call::Mesh {
        connect: address,
        discover,
    };
    Ok(patient_client(socket)?.call(&call)?)
}

fn config(options: &MeshShellOptions) -> Result<String, CliError> {
    let downloads = std::env::current_dir()
        .map_err(CliError::cannot("find the current folder"))?
        .join(DOWNLOADS);
    let peers = options.peer.iter();
    let peers: Vec<String> = peers
        .map(|peer| format!("{:?}", peer.to_string()))
        .collect();
    let (port, peers) = (options.port, peers.join(", "));
    Ok(format!(
        "[mount]\nenabled = false\n[lan]\nmdns = false\n[mesh]\nlisten = \"0.0.0.0:{port}\"\n\
         peers = [{peers}]\nmax_peers = {PEERS_MAX}\ninbox = {:?}\n[inbox]\nbudget = \"1TiB\"\n",
        downloads.display().to_string()
    ))
}
