//! Names of Unix sockets. A new socket replaces that of a dead process, and nothing else.

use std::fs::{File, Permissions, remove_file, symlink_metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, geteuid};

use super::path_of;
use super::trusted_way::reach;

/// Mode of a socket to which every user may connect, which needs the right to write (unix(7)).
const ALL_CONNECT: u32 = 0o666;

/// Binds a socket of this kind to the path.
///
/// # Errors
/// Those of [`make_way`], and the system's.
pub fn bound(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    make_way(path, kind)?;
    let socket = unbound(kind, SocketFlags::CLOEXEC)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn unbound(kind: SocketType, flags: SocketFlags) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    Ok(socket)
}

/// Removes the socket of a dead process at the path.
///
/// # Errors
/// `AddrInUse` if a process listens there, on a socket of any kind; `AlreadyExists` if the path is
/// not a socket; the system's error otherwise.
pub fn make_way(path: &Path, kind: SocketType) -> io::Result<()> {
    match symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            let told = "there is something that is not a socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, told));
        }
    }
    // A listening process accepts the connection, has a full backlog (not waited for), or listens
    // on another kind of socket (unix(7), ERRORS).
    match called(path, kind)?.1 {
        Err(Errno::CONNREFUSED) => remove_file(path),
        Ok(()) | Err(Errno::PROTOTYPE | Errno::AGAIN) => {
            let told = "another process answers there";
            Err(io::Error::new(io::ErrorKind::AddrInUse, told))
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the path of a socket with the directory above it [reached](super::trusted_way::reach).
///
/// # Errors
/// The error of the system, and that of a link of another user.
pub fn plain_place(path: &Path) -> io::Result<PathBuf> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(path.to_owned());
    };
    Ok(reach(above)?.path().join(name))
}

/// Lets every user connect to a socket at the path. Changes nothing but a socket of this program's
/// user: another user may be able to put a link there.
///
/// # Errors
/// The error of the system, and `InvalidInput` if something else is there.
pub fn open_to_connect(path: &Path) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let found = socket.metadata()?;
    if !found.file_type().is_socket() || found.uid() != geteuid().as_raw() {
        let replaced = "the socket was replaced while it was made";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, replaced));
    }
    std::fs::set_permissions(path_of(&socket), Permissions::from_mode(ALL_CONNECT))
}

/// Returns the process that listens at the path, if its backlog has room for a connection.
pub fn listener(path: &Path, kind: SocketType) -> Option<Pid> {
    match called(path, kind).ok()? {
        (caller, Ok(())) => socket_peercred(caller).ok().map(|it| it.pid),
        _ => None,
    }
}

/// Connects a socket to the path without waiting. Returns the socket and the result.
fn called(path: &Path, kind: SocketType) -> io::Result<(OwnedFd, rustix::io::Result<()>)> {
    let caller = unbound(kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    let outcome = rustix::net::connect(&caller, &SocketAddrUnix::new(path)?);
    Ok((caller, outcome))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_replaces_a_dead_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for kind in [SocketType::STREAM, SocketType::SEQPACKET] {
            let refused = |name: &str| make_way(&at(name), kind).unwrap_err().kind();
            make_way(&at("socket"), kind).unwrap();
            let living = UnixListener::bind(at("socket")).unwrap();
            assert_eq!(refused("socket"), io::ErrorKind::AddrInUse);
            drop(living);
            make_way(&at("socket"), kind).unwrap();
            assert!(!at("socket").exists());
            fs::write(at("file"), "precious").unwrap();
            let _there = symlink(at("file"), at("link"));
            for name in ["file", "link", "."] {
                assert_eq!(refused(name), io::ErrorKind::AlreadyExists, "{name}");
            }
            assert_eq!(fs::read(at("link")).unwrap(), b"precious");
        }
    }

    #[test]
    fn only_a_socket_is_opened_to_all_users_and_no_target_of_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).unwrap().mode() & 0o777;
        let _listener = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("private"), "").unwrap();
        fs::set_permissions(at("private"), Permissions::from_mode(0o600)).unwrap();
        symlink("private", at("link")).unwrap();
        open_to_connect(&at("socket")).unwrap();
        assert_eq!(mode("socket"), 0o666);
        for name in ["private", "link"] {
            assert!(open_to_connect(&at(name)).is_err(), "{name}");
        }
        assert_eq!(mode("private"), 0o600);
        symlink(folder.path(), at("above")).unwrap();
        let plain = fs::canonicalize(folder.path()).unwrap().join("socket");
        assert_eq!(plain_place(&at("above/socket")).unwrap(), plain);
    }

    #[test]
    fn a_hung_process_with_waiting_callers_keeps_its_socket_and_delays_no_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let (kind, address) = (SocketType::STREAM, SocketAddrUnix::new(&path).unwrap());
        let still = bound(&path, kind).unwrap();
        rustix::net::listen(&still, 1).unwrap();
        let caller = || unbound(kind, SocketFlags::NONBLOCK).unwrap();
        let mut waiting = Vec::new();
        loop {
            let caller = caller();
            let called = rustix::net::connect(&caller, &address);
            waiting.push(caller);
            if called.is_err() {
                assert_eq!(called, Err(Errno::AGAIN));
                break;
            }
        }
        let refused = make_way(&path, kind).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
