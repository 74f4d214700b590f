//! The daemon of one shell: started with it, ended with it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::de::DeserializeOwned;

use super::super::ending;
use super::super::error::CliError;
use super::{MeshShellOptions, words};
use crate::daemon::control::{Call, Client, Event, MeshInfo, Named, SendDone};

/// Its control socket, in its folder.
const SOCKET: &str = "p2pfs.sock";
/// Where files go, from the directory that the shell is started in.
const DOWNLOADS: &str = "downloads";
/// As many peers as the older program takes.
pub(super) const PEERS_MAX: u32 = 10;
/// The longest that the daemon takes to begin.
const BEGIN: &str = "30s";

/// The daemon of one shell.
pub(super) struct MeshNode {
    home: PathBuf,
    child: Child,
}

impl MeshNode {
    /// Starts it, and shows from now on what happens.
    ///
    /// # Errors
    /// What the daemon says last where it does not start.
    pub(super) fn start(options: &MeshShellOptions) -> Result<Self, CliError> {
        let home = std::env::temp_dir().join(format!("p2pfs-mesh-{}", std::process::id()));
        let signals = ending::held()?;
        fs::DirBuilder::new().mode(0o700).create(&home)?;
        let child = match spawn(&home, options) {
            Ok(child) => child,
            Err(error) => {
                let _tidied = fs::remove_dir_all(&home);
                return Err(error);
            }
        };
        let node = Self { home, child };
        let home = node.home.clone();
        ending::end_daemon_with(signals, &node.child, move || {
            // a signal leaves nothing
            let _tidied = fs::remove_dir_all(&home);
        });
        let mut wait = Command::new(std::env::current_exe()?);
        wait.args(["wait", "--timeout", BEGIN, "--socket"]);
        let waited = wait.arg(node.home.join(SOCKET)).output()?;
        if !waited.status.success() {
            return Err(node.last_words());
        }
        let info = node.mesh(None, false).map_err(|_| node.last_words())?;
        writeln!(
            io::stdout(),
            "{}",
            words::listening(options.name.as_ref(), &info)
        )?;
        node.show_events(options)?;
        Ok(node)
    }

    fn last_words(&self) -> CliError {
        let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
        let last = log.lines().rfind(|line| !line.trim().is_empty());
        CliError::plain(last.unwrap_or("the daemon did not start").to_owned())
    }

    /// Prints what happens in the words of the older program, until the daemon ends.
    fn show_events(&self, options: &MeshShellOptions) -> Result<(), CliError> {
        let mut client = self.client()?;
        client.start(&Call::Events { follow: true })?;
        let socket = self.home.join(SOCKET);
        let seed = options.peer.as_ref().map(ToString::to_string);
        std::thread::spawn(move || {
            while let Ok(reply) = client.next_reply() {
                let Ok(event) = reply.decode::<Event>() else {
                    continue;
                };
                let info = || mesh_at(&socket, None, false).unwrap_or_default();
                for line in words::event(&event, seed.as_deref(), info) {
                    let _nobody_reads = writeln!(io::stdout(), "{line}");
                }
            }
        });
        Ok(())
    }

    fn client(&self) -> Result<Client, CliError> {
        connect(&self.home.join(SOCKET))
    }

    pub(super) fn call<T: DeserializeOwned>(&self, call: &Call) -> Result<T, CliError> {
        Ok(self.client()?.call(call)?)
    }

    pub(super) fn mesh(
        &self,
        connect: Option<String>,
        discover: bool,
    ) -> Result<MeshInfo, CliError> {
        mesh_at(&self.home.join(SOCKET), connect, discover)
    }

    pub(super) fn send(&self, path: &Path) -> Result<SendDone, CliError> {
        let file = File::open(path)
            .map_err(|error| CliError::plain(format!("{}: {error}", path.display())))?;
        let mut client = self.client()?;
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

fn connect(socket: &Path) -> Result<Client, CliError> {
    let mut client = Client::connect(&[socket.to_path_buf()])?;
    client.set_patience(None)?;
    Ok(client)
}

fn mesh_at(socket: &Path, address: Option<String>, discover: bool) -> Result<MeshInfo, CliError> {
    let call = Call::Mesh {
        connect: address,
        discover,
    };
    Ok(connect(socket)?.call(&call)?)
}

impl Drop for MeshNode {
    fn drop(&mut self) {
        ending::ask(&self.child);
        let _ended = self.child.wait();
        let _tidied = fs::remove_dir_all(&self.home);
    }
}

fn spawn(home: &Path, options: &MeshShellOptions) -> Result<Child, CliError> {
    let downloads = std::env::current_dir()?.join(DOWNLOADS);
    let peers = options
        .peer
        .iter()
        .map(|peer| format!("{:?}", peer.to_string()));
    let peers: Vec<String> = peers.collect();
    let (port, peers) = (options.port, peers.join(", "));
    let text = format!(
        "[mount]\nenabled = false\n[lan]\nmdns = false\n[mesh]\nlisten = \"0.0.0.0:{port}\"\n\
         peers = [{peers}]\nmax_peers = {PEERS_MAX}\ninbox = {:?}\n[inbox]\nbudget = \"1TiB\"\n",
        downloads.display().to_string()
    );
    fs::write(home.join("p2pfs.toml"), text)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["daemon", "--listen", "127.0.0.1:0"]);
    if let Some(name) = &options.name {
        command.args(["--name", name.as_str()]);
    }
    for (option, name) in [
        ("--config", "p2pfs.toml"),
        ("--state", "state"),
        ("--cache", "cache"),
        ("--socket", SOCKET),
    ] {
        command.arg(option).arg(home.join(name));
    }
    for variable in ["P2P_HOST", "P2P_PORT", "P2P_FOLDER", "P2P_CLUSTER"] {
        command.env_remove(variable);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    if !options.debug {
        let log = File::create(home.join("log"))?;
        command.stderr(log.try_clone()?).stdout(log);
    }
    // Ctrl-C reaches the shell alone
    ending::bind(&mut command);
    Ok(command.spawn()?)
}
