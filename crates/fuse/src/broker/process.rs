//! Process of the mount broker: the loop that receives requests and executes them.
//!
//! It keeps each mount for [`ALONE_MAX`] while no daemon serves it, so that the next daemon takes
//! it over and readers only wait. It serves one user, the owner of its socket, and mounts only at
//! the places given at its start. One thread does everything except the probes of stale mounts and
//! the notifications of the kernel. It never opens anything beneath a mount.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::net::{SocketFlags, SocketType};

use super::filter;
pub use super::kept_mount::ALONE_MAX;
use super::kept_mount::KeptMount;
use super::notifier::Notifiers;
use super::protocol::{Reply, Request, receive, send};
use crate::mounting::{MountingError, backing};
use p2pfs_types::files::socket_place::bound;

/// Maximum number of connections: a daemon, its successor, and a manual one.
const CLIENTS_MAX: usize = 4;

/// How long after its start the broker takes its configuration for current. Within this time it
/// does not end to allow another mount point. Otherwise it could restart so often that the service
/// manager gives up (`StartLimitBurst=`).
const CONFIGURATION_HOLDS: Duration = Duration::from_secs(3);

/// Parameters of the broker.
pub struct Settings {
    /// Path of the socket; created unless the service manager passes one. Its owner is the served
    /// user.
    pub socket: PathBuf,
    /// Allowed mount points.
    pub allowed: Vec<PathBuf>,
    /// Whether the next start may have other parameters.
    pub by_configuration: bool,
}

struct BrokerProcess {
    allowed: Vec<PathBuf>,
    /// Time from which a restart may allow other mount points; `None` if it cannot.
    settled: Option<Instant>,
    /// Whether the process must end, because a daemon requested a mount point that only the next
    /// start may allow.
    is_outdated: bool,
    socket: PathBuf,
    kept: Vec<KeptMount>,
    clients: Vec<BrokerClient>,
    notifiers: Notifiers,
}

struct BrokerClient {
    socket: OwnedFd,
    /// Index of the mount that it serves. Mounts are never removed from the list.
    kept: Option<usize>,
}

/// Serves until SIGTERM or SIGINT, or until a daemon requests a mount point that only the next
/// start may allow. Then unmounts.
///
/// # Errors
/// In the latter case, and if the socket cannot be opened, the process cannot be confined, or the
/// kernel refuses to unmount.
pub fn run(settings: Settings) -> io::Result<()> {
    let listener = listen(&settings.socket)?;
    let signals = end_signals()?;
    // Without a service manager, no process receives the notification.
    let _told = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    filter::confine()?;
    let settled = Instant::now() + CONFIGURATION_HOLDS;
    let mut process = BrokerProcess {
        allowed: settings.allowed,
        settled: settings.by_configuration.then_some(settled),
        is_outdated: false,
        socket: settings.socket,
        kept: Vec::new(),
        clients: Vec::new(),
        notifiers: Notifiers::default(),
    };
    while process.serve_once(&listener, &signals)? {}
    for kept in &process.kept {
        kept.standing.unmount().map_err(io::Error::other)?;
    }
    if process.is_outdated {
        let why = "it was asked for an unknown mount point, and restarts";
        return Err(io::Error::other(why));
    }
    Ok(())
}

impl BrokerProcess {
    /// Waits for events and handles them. Returns `false` at the end.
    fn serve_once(&mut self, listener: &OwnedFd, signals: &OwnedFd) -> io::Result<bool> {
        let sockets = self.clients.iter().map(|client| client.socket.as_fd());
        let watched = [signals.as_fd(), listener.as_fd()];
        let mut ready: Vec<PollFd<'_>> = watched
            .into_iter()
            .chain(sockets)
            .map(|it| PollFd::from_borrowed_fd(it, PollFlags::IN))
            .collect();
        match poll(&mut ready, self.poll_timeout().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = ready.iter().map(|it| !it.revents().is_empty()).collect();
        if ready[0] {
            return Ok(false);
        }
        for index in (0..self.clients.len()).rev() {
            if ready[index + 2] && !self.handle_request(index) {
                let gone = self.clients.swap_remove(index);
                if let Some(kept) = gone.kept {
                    self.kept[kept].leave_alone();
                }
            }
        }
        if ready[1] {
            self.accept(listener);
        }
        self.kept.iter_mut().for_each(KeptMount::end_if_alone);
        Ok(!self.is_outdated)
    }

    fn poll_timeout(&self) -> Option<Timespec> {
        let alone = self.kept.iter().filter(|kept| !kept.aborted);
        let first = alone.filter_map(|kept| kept.alone_since).min()?;
        let left = ALONE_MAX.saturating_sub(first.elapsed()) + Duration::from_millis(1);
        left.try_into().ok()
    }

    fn accept(&mut self, listener: &OwnedFd) {
        let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) else {
            return;
        };
        let peer = rustix::net::sockopt::socket_peercred(&socket);
        let owner = rustix::fs::stat(&self.socket).map(|found| found.st_uid);
        let is_daemon = peer.is_ok_and(|peer| Ok(peer.uid.as_raw()) == owner);
        if is_daemon && self.clients.len() < CLIENTS_MAX {
            self.clients.push(BrokerClient { socket, kept: None });
        }
    }

    /// Answers one request. Returns `false` if the client is gone or sent an invalid message.
    fn handle_request(&mut self, index: usize) -> bool {
        let socket = self.clients[index].socket.as_fd();
        let Ok(Some((request, descriptors))) = receive::<Request>(socket) else {
            return false;
        };
        let answer = self.answer(index, request, &descriptors);
        if self.is_outdated {
            // The daemon of this client asks the next broker.
            return false;
        }
        let reply = answer.unwrap_or_else(|error| Reply::Refused {
            errno: error.raw_os_error().unwrap_or(0),
            why: error.to_string(),
        });
        let client = &self.clients[index];
        let is_mounted_reply = matches!(reply, Reply::Mounted { .. });
        let kept = client.kept.map(|kept| &self.kept[kept]);
        let kept = kept.filter(|_| is_mounted_reply);
        let start = |kept: &KeptMount| {
            let start = || self.notifiers.start(&kept.device);
            Ok::<_, io::Error>([start()?, start()?])
        };
        // Without these sockets, the daemon notifies the kernel itself.
        let notifiers = kept.and_then(|kept| start(kept).ok());
        let kept = kept.map(|kept| [kept.device.as_fd(), kept.table.as_fd()]);
        let notifiers = notifiers.iter().flatten().map(AsFd::as_fd);
        let attached: Vec<BorrowedFd<'_>> = kept.into_iter().flatten().chain(notifiers).collect();
        send(client.socket.as_fd(), &reply, &attached).is_ok()
    }

    fn answer(
        &mut self,
        index: usize,
        request: Request,
        descriptors: &[OwnedFd],
    ) -> io::Result<Reply> {
        if let Request::Mount { dir } = request {
            let dir = PathBuf::from(std::ffi::OsString::from_vec(dir));
            return self.mount(index, &dir);
        }
        let kept = self.clients[index].kept;
        let kept = &mut self.kept[kept.ok_or(io::ErrorKind::NotConnected)?];
        match request {
            Request::Mount { .. } => {}
            Request::Anew => {
                let dir = kept.dir.clone();
                kept.standing.unmount().map_err(io::Error::other)?;
                *kept = KeptMount::mount(&dir)?;
                return Ok(kept.reply());
            }
            Request::Keep { greeting } => kept.greeting = Some(greeting),
            Request::Register => {
                let file = descriptors.first().ok_or(io::ErrorKind::InvalidInput)?;
                check_readable(file)?;
                let number = backing::register(kept.device.as_fd(), file.as_fd())?;
                return Ok(Reply::Registered { number });
            }
            Request::Release { number } => backing::release(kept.device.as_fd(), number)?,
            Request::ReadAhead { bytes } => kept.standing.set_read_ahead(bytes)?,
            Request::Writable { is_writable } => {
                let changed = kept.standing.set_writable(is_writable);
                changed.map_err(|error| match error {
                    MountingError::Remount { why, .. } => why,
                    error => io::Error::other(error),
                })?;
            }
        }
        Ok(Reply::Done)
    }

    fn mount(&mut self, index: usize, dir: &Path) -> io::Result<Reply> {
        if !self.allowed.iter().any(|allowed| allowed == dir) {
            let serves = self.kept.iter().any(|kept| kept.alone_since.is_none());
            self.is_outdated = !serves && self.settled.is_some_and(|it| it <= Instant::now());
            let allowed = self.allowed.iter().map(|it| it.display().to_string());
            return Err(io::Error::other(format!(
                "the mount broker may mount at {} only, as dir of [mount] in the configuration \
                 file was when it started; after a change there: systemctl restart p2pfs-broker",
                allowed.collect::<Vec<_>>().join(", ")
            )));
        }
        let is_at = |kept: &KeptMount| kept.dir == dir;
        let at = match self.kept.iter().position(is_at) {
            Some(at) if self.kept[at].alone_since.is_none() => {
                let dir = dir.to_owned();
                return Err(io::Error::other(MountingError::AlreadyServed { dir }));
            }
            Some(at) if self.kept[at].can_be_taken_up() => at,
            Some(at) => {
                self.kept[at].standing.unmount().map_err(io::Error::other)?;
                self.kept[at] = KeptMount::mount(dir)?;
                at
            }
            None => {
                self.kept.push(KeptMount::mount(dir)?);
                self.kept.len() - 1
            }
        };
        let kept = &mut self.kept[at];
        kept.alone_since = None;
        self.clients[index].kept = Some(at);
        Ok(kept.reply())
    }
}

/// Checks that a file is open for reading. The kernel may read it for others only if the daemon
/// itself can read it, not if the daemon only names it (O_PATH).
fn check_readable(file: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    let is_open = !flags.contains(OFlags::PATH) && !flags.contains(OFlags::WRONLY);
    let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    if is_open && kind == FileType::RegularFile {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Returns the socket of the service manager, or creates one.
fn listen(path: &Path) -> io::Result<OwnedFd> {
    if let Some(first) = sd_notify::listen_fds()?.next() {
        // SAFETY: the manager opened it for this process (sd_listen_fds(3)), and no other code here
        // takes it.
        return Ok(unsafe { OwnedFd::from_raw_fd(first) });
    }
    let socket = bound(path, SocketType::SEQPACKET)?;
    rustix::net::listen(&socket, CLIENTS_MAX as i32)?;
    Ok(socket)
}

/// Returns a descriptor that signals SIGTERM and SIGINT to poll.
fn end_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is read, and lives for all calls.
    let descriptor = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC)
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: signalfd has just created it, and no other code has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_replaces_the_socket_of_a_dead_broker_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let first = listen(&at("socket")).unwrap();
        let living = listen(&at("socket")).unwrap_err();
        assert_eq!(living.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(listen(&at("socket")).is_ok());

        std::fs::write(at("file"), "precious").unwrap();
        let other = listen(&at("file")).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(at("file")).unwrap(), b"precious");
    }
}
