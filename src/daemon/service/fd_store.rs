//! Sockets that outlive the daemon. The service manager keeps them from one process to the next
//! (`FDSTORE=1`, sd_notify(3)). Other nodes and callers of the control socket therefore wait during
//! a restart and are not refused.
//!
//! Owns the names of the sockets in the manager's store. A kept socket that does not fit the
//! configuration is discarded and opened again. Without a manager, or with one that keeps nothing,
//! each start opens its own sockets.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use sd_notify::NotifyState;

use crate::daemon::config::Config;
use crate::daemon::control::{ControlError, ControlServer, Policy};
#[cfg(feature = "legacy")]
use p2pfs_legacy::LegacyPeers;
use p2pfs_node::{NodeError, Sockets};

const PEERS_TCP: &str = "peers-tcp";
const PEERS_UDP: &str = "peers-udp";
#[cfg(feature = "legacy")]
const MESH: &str = "mesh";
const CONTROL: &str = "control";
/// How long the manager may take to close sockets that were removed from its store.
const FORGET_TIME: Duration = Duration::from_secs(5);

/// Sockets from the manager that are not in use yet, by name.
pub(super) struct Kept(HashMap<String, OwnedFd>);

impl Kept {
    /// Takes over all sockets that the manager kept. Call it once in a process.
    pub(super) fn by_manager() -> Self {
        Self(kept_by_manager())
    }

    /// Returns the control socket and stores it with the manager. Needs a running tokio runtime.
    ///
    /// # Errors
    /// Fails if another daemon holds it, or the system refuses it.
    pub(super) fn control(&mut self, config: &Config) -> Result<ControlServer, ControlError> {
        let policy = Policy::of_this_process();
        let connections_max = config.limits.control_connections;
        if let Some(socket) = self.0.remove(CONTROL) {
            let policy = policy.clone();
            match ControlServer::adopt(socket, &config.socket, policy, connections_max) {
                Ok(server) => return Ok(server),
                Err(error) => tracing::debug!("the kept control socket is of no use: {error}"),
            }
            forget(&[CONTROL]);
        }
        let mut server = ControlServer::bind(&config.socket, policy, connections_max)?;
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            keep(CONTROL, server.to_be_kept());
        }
        Ok(server)
    }

    /// Returns the sockets for other nodes and stores each with the manager. Needs a running tokio
    /// runtime.
    ///
    /// # Errors
    /// Fails if the node cannot listen on its address.
    pub(super) fn sockets(self, config: &Config) -> Result<Sockets, NodeError> {
        let (mut kept, mut sockets) = (self.0, Sockets::default());
        peers(&mut kept, &mut sockets, config.listen)?;
        if !kept.is_empty() {
            // The rest are sockets of a protocol that the configuration has turned off, such as the
            // mesh.
            let names: Vec<&str> = kept.keys().map(String::as_str).collect();
            forget(&names);
        }
        Ok(sockets)
    }

    /// Gives `peers` the listening socket of the mesh: the one that the manager kept, or a new one.
    /// If neither works, `peers` opens the socket itself when it starts, and reports a failure of
    /// that. Needs a running tokio runtime.
    #[cfg(feature = "legacy")]
    pub(super) fn open_mesh(&mut self, peers: &LegacyPeers, at: SocketAddr) {
        if let Some(socket) = self.0.remove(MESH) {
            if peers.adopt_mesh(socket, at).is_ok() {
                return;
            }
            forget(&[MESH]);
        }
        if let Ok(opened) = peers.open_mesh(at) {
            keep(MESH, opened.as_fd());
        }
    }
}

type ByName = HashMap<String, OwnedFd>;

fn peers(kept: &mut ByName, sockets: &mut Sockets, at: SocketAddr) -> Result<(), NodeError> {
    let is_kept = kept.contains_key(PEERS_TCP) || kept.contains_key(PEERS_UDP);
    if let (Some(tcp), Some(udp)) = (kept.remove(PEERS_TCP), kept.remove(PEERS_UDP)) {
        match sockets.adopt_peers(tcp, udp, at) {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!("the kept sockets are not for {at}: {error}"),
        }
    }
    if is_kept {
        forget(&[PEERS_TCP, PEERS_UDP]);
    }
    if let Ok([tcp, udp]) = sockets.open_peers(at)? {
        keep(PEERS_TCP, tcp.as_fd());
        keep(PEERS_UDP, udp.as_fd());
    }
    Ok(())
}

/// Returns the sockets from the manager by name.
fn kept_by_manager() -> ByName {
    let handed = match sd_notify::listen_fds_with_names() {
        Ok(handed) => handed,
        Err(error) => {
            tracing::warn!("what the service manager kept is not taken up: {error}");
            return ByName::new();
        }
    };
    // SAFETY: the manager opened them for this process (sd_listen_fds(3)), and no other code here
    // takes them.
    let owned = handed.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) }));
    owned.collect()
}

fn keep(name: &str, socket: BorrowedFd<'_>) {
    // An error on the socket, for instance from an ICMP message, must not make the manager drop it.
    let states = [
        NotifyState::FdStore,
        NotifyState::FdName(name),
        NotifyState::Custom("FDPOLL=0"),
    ];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[socket]) {
        tracing::debug!("the service manager does not keep {name}: {error}");
    }
}

/// Removes sockets from the manager's store and waits until the manager has closed them. Until
/// then, the addresses of the sockets stay in use.
fn forget(names: &[&str]) {
    for name in names {
        let states = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
        // Without a manager, nothing is stored.
        let _told = sd_notify::notify(&states);
    }
    if let Err(error) = wait_for_manager() {
        tracing::debug!("the service manager does not say that it forgot {names:?}: {error}");
    }
}

/// Waits until the manager has processed all earlier messages. The manager then closes the
/// descriptor that is sent with the barrier (`BARRIER=1`, sd_notify(3)).
fn wait_for_manager() -> io::Result<()> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[writer.as_fd()])?;
    drop(writer);
    let patience = FORGET_TIME.try_into().map_err(io::Error::other)?;
    poll(
        &mut [PollFd::new(&reader, PollFlags::empty())],
        Some(&patience),
    )?;
    Ok(())
}
