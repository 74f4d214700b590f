//! The socket itself: binding it, and accepting callers within limits.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketType;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::connection::{Connection, Shared};
use super::credentials::{Credentials, Policy};
use super::descriptor;
use super::failure::{Failure, FailureKind};
use super::framing::{CALL_MAX_BYTES, CallMessage, encode_failure};
use super::process::Process;
use super::request::ControlRequest;
use super::turn::Turn;
use p2pfs_types::files::make_open_dir;
use p2pfs_types::files::socket_place::{listener, make_way, open_to_connect};

/// One user other than root and the daemon's user may hold at most 1/`USER_SHARE` of all
/// connections.
const USER_SHARE: usize = 4;
/// How long accepting pauses after a failure, for instance without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for a daemon that holds the socket and may be ending. A killed daemon holds its
/// sockets, locks and ports until the system has reclaimed its memory.
const ENDING: Duration = Duration::from_secs(1);

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon answers on it.
    #[error(
        "another daemon answers on {}: stop it, or give this one another --socket and --state",
        .path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused it.
    #[error("cannot listen on {}: {source}; choose another with --socket", .path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// Removes a socket file without a listener. If another process listens, waits up to [`ENDING`] for
/// that process to end.
fn make_way_for(path: &Path) -> io::Result<()> {
    let made = make_way(path, SocketType::STREAM);
    if made
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    {
        let other = listener(path, SocketType::STREAM).and_then(Process::of_pid);
        if other.is_some_and(|other| other.ends(ENDING)) {
            return make_way(path, SocketType::STREAM);
        }
    }
    made
}

/// A bound control socket. Dropping the server removes the socket's file, unless the socket is kept
/// for the next daemon.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    file: SocketFile,
    policy: Policy,
    connections_max: usize,
}

impl ControlServer {
    /// Binds the socket with mode 0666, and creates a missing directory for it with mode 0755.
    /// Replaces a socket without a listener. If a process holds the socket, gives it a second to
    /// end. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ControlError`]; a socket with a listener, or a file that is not a socket, is left
    /// unchanged.
    pub fn bind(path: &Path, policy: Policy, connections_max: u32) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Bind {
            path: path.to_path_buf(),
            source,
        };
        if let Some(dir) = path.parent() {
            make_open_dir(dir).map_err(failed)?;
        }
        make_way_for(path).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => ControlError::InUse {
                path: path.to_path_buf(),
            },
            _ => failed(error),
        })?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        open_to_connect(path).map_err(failed)?;
        let file = SocketFile::of(path).map_err(failed)?;
        let connections_max = usize::try_from(connections_max).unwrap_or(usize::MAX);
        Ok(Self {
            listener,
            file,
            policy,
            connections_max,
        })
    }

    /// Takes over the socket that an earlier process bound. Callers that connected meanwhile wait
    /// in its queue. The file of the socket stays when the server is dropped. Needs a tokio
    /// runtime.
    ///
    /// # Errors
    /// Fails if the descriptor is not a listening socket of this path.
    pub fn adopt(
        socket: OwnedFd,
        path: &Path,
        policy: Policy,
        connections_max: u32,
    ) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(socket);
        let is_there = listener.local_addr()?.as_pathname() == Some(path) && path.exists();
        if !is_there || !rustix::net::sockopt::socket_acceptconn(&listener)? {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            file: SocketFile::kept(path),
            policy,
            connections_max: usize::try_from(connections_max).unwrap_or(usize::MAX),
        })
    }

    /// Returns the socket for storage beyond the life of this server. The file of the socket then
    /// stays, too.
    pub fn to_be_kept(&mut self) -> BorrowedFd<'_> {
        self.file.identity = None;
        self.listener.as_fd()
    }

    /// Accepts callers until the future is dropped; each call becomes one request in the queue.
    pub async fn serve(self, requests: mpsc::Sender<ControlRequest>) {
        let shared = Arc::new(Shared {
            policy: self.policy.clone(),
            requests,
        });
        let users = Arc::new(ConnectedUsers::new(
            self.connections_max,
            self.policy.clone(),
        ));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    // Calls that were given up while no daemon ran wait in the queue of a socket
                    // that the service manager keeps.
                    Ok((stream, _)) if is_given_up(&stream) => {}
                    Ok((stream, _)) => {
                        if let Some((caller, slot)) = admit(&users, &stream) {
                            let (shared, turn) = (Arc::clone(&shared), slot.turn.clone());
                            let connection = Connection::new(stream, caller, shared, turn);
                            connections.spawn(serve_one(connection, slot));
                        }
                    }
                    Err(e) => {
                        tracing::debug!("no caller accepted: {e}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn serve_one(connection: Connection, slot: ConnectionSlot) {
    let uid = connection.caller.uid;
    let ended = connection.serve().await;
    tracing::debug!("control connection of user {uid} ended: {ended}");
    drop(slot);
}

/// Returns whether the caller has closed the connection and no call on it is of use, because each
/// expects a reply.
fn is_given_up(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    // A failure shows when the connection is read.
    let _ = poll(&mut polled, Some(&Timespec::default()));
    // A caller that has closed only its sending side waits for replies, and does not hang up.
    let is_closed = polled[0].revents().contains(PollFlags::HUP);
    is_closed && !descriptor::peek(stream, CALL_MAX_BYTES).is_ok_and(|unread| expects_none(&unread))
}

/// Returns whether the first of the calls expects no reply.
fn expects_none(calls: &[u8]) -> bool {
    let mut calls = calls.split(|byte| *byte == 0);
    let first = calls.next().and_then(CallMessage::read);
    first.is_some_and(|call| call.oneway)
}

/// Returns the caller's identity and a connection slot. Without a free slot, sends the reason to
/// the caller and returns `None`.
fn admit(
    users: &Arc<ConnectedUsers>,
    stream: &UnixStream,
) -> Option<(Credentials, ConnectionSlot)> {
    let caller = match Credentials::of_peer(stream) {
        Ok(caller) => caller,
        Err(e) => {
            tracing::debug!("the kernel does not say who calls: {e}");
            return None;
        }
    };
    let slot = ConnectedUsers::acquire(users, caller.uid);
    if slot.is_none() {
        let failure = Failure::new(
            FailureKind::Busy,
            "too many connections to the control socket",
        )
        .with_remedy("close some, or raise limits.control_connections");
        // One write into an empty buffer. A caller that does not receive it is turned away all the
        // same.
        let _unheard = stream.try_write(&encode_failure(&failure));
    }
    slot.map(|slot| (caller, slot))
}

/// The connected users.
#[derive(Debug)]
struct ConnectedUsers {
    max: usize,
    policy: Policy,
    by_user: Mutex<HashMap<u32, OfUser>>,
}

/// The connections and the turn of one user.
#[derive(Debug)]
struct OfUser {
    connections: usize,
    turn: Turn,
}

/// The right to one connection; dropping it frees the slot.
#[derive(Debug)]
struct ConnectionSlot {
    users: Arc<ConnectedUsers>,
    uid: u32,
    turn: Turn,
}

impl ConnectedUsers {
    fn new(max: usize, policy: Policy) -> Self {
        Self {
            max,
            policy,
            by_user: Mutex::default(),
        }
    }

    /// Returns a slot for a connection, if one is free. One user alone cannot lock out the others,
    /// and other users cannot lock out root and the daemon's user.
    fn acquire(users: &Arc<Self>, uid: u32) -> Option<ConnectionSlot> {
        let mut by_user = users.by_user.lock();
        let own = by_user.get(&uid).map_or(0, |user| user.connections);
        let others: usize = by_user
            .iter()
            .filter(|(user, _)| **user != uid)
            .map(|(_, user)| user.connections)
            .sum();
        let privileged = uid == 0 || uid == users.policy.owner_uid;
        let free = if privileged {
            own < users.max
        } else {
            own < (users.max / USER_SHARE).max(1) && own + others < users.max
        };
        if !free {
            return None;
        }
        let user = by_user.entry(uid).or_insert_with(|| OfUser {
            connections: 0,
            turn: if privileged {
                Turn::unlimited()
            } else {
                Turn::of_a_user()
            },
        });
        user.connections += 1;
        Some(ConnectionSlot {
            users: Arc::clone(users),
            uid,
            turn: user.turn.clone(),
        })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut by_user = self.users.by_user.lock();
        match by_user.get_mut(&self.uid) {
            Some(user) if user.connections > 1 => user.connections -= 1,
            _ => drop(by_user.remove(&self.uid)),
        }
    }
}

/// The file of the socket. It is removed when this value is dropped, unless another daemon has put
/// its own socket there or the socket is kept for the next daemon (`identity` is `None`).
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_path_buf(),
            identity: Some(identity(path)?),
        })
    }

    fn kept(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            identity: None,
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let own = self.identity;
        if own.is_some() && identity(&self.path).ok() == own {
            // A file that stays is replaced at the next start.
            let _stays = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(max: usize) -> Arc<ConnectedUsers> {
        Arc::new(ConnectedUsers::new(
            max,
            Policy {
                owner_uid: 100,
                group_gid: None,
            },
        ))
    }

    #[test]
    fn one_user_cannot_exclude_the_others() {
        let users = users(8);
        let slots: Vec<_> = (0..3)
            .map(|_| ConnectedUsers::acquire(&users, 1000))
            .collect();
        assert_eq!(slots.iter().flatten().count(), 2);
        assert!(ConnectedUsers::acquire(&users, 1001).is_some());
    }

    #[test]
    fn all_users_together_cannot_exclude_root_or_the_daemons_user() {
        let users = users(4);
        let slots: Vec<_> = (1000..1010)
            .filter_map(|uid| ConnectedUsers::acquire(&users, uid))
            .collect();
        assert_eq!(slots.len(), 4);
        assert!(ConnectedUsers::acquire(&users, 0).is_some());
        assert!(ConnectedUsers::acquire(&users, 100).is_some());
    }

    #[tokio::test]
    async fn connections_of_one_user_share_its_turn_and_root_needs_none() {
        let users = users(16);
        let slot = |uid| ConnectedUsers::acquire(&users, uid).unwrap();
        let (one, other, third) = (slot(1000), slot(1000), slot(1001));
        let _at_work = one.turn.take().await;
        let waits = std::time::Duration::ZERO;
        assert!(
            tokio::time::timeout(waits, other.turn.take())
                .await
                .is_err()
        );
        assert!(third.turn.take().await.is_some());
        let (root, again) = (slot(0), slot(0));
        let _at_work = root.turn.take().await;
        assert!(again.turn.take().await.is_none());
    }

    #[test]
    fn a_slot_is_free_again_once_its_connection_ended() {
        let users = users(4);
        for _ in 0..100 {
            assert!(ConnectedUsers::acquire(&users, 1000).is_some());
        }
        assert!(users.by_user.lock().is_empty());
    }
}
