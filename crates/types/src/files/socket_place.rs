//! The name of a Unix socket: that of a dead process makes way for the next one's, and nothing else
//! does.

use std::fs::{remove_file, symlink_metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Pid;

/// A socket of this kind at that place.
///
/// # Errors
/// As [`make_way`].
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

/// Makes way for a socket of this kind.
///
/// # Errors
/// `AddrInUse` where a process listens there, on a socket of whatever kind; `AlreadyExists` where
/// something else is there; what the system says.
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
    // who listens takes the call, has no place for it, which is not waited for, or is of another
    // kind (unix(7), ERRORS)
    match called(path, kind)?.1 {
        Err(Errno::CONNREFUSED) => remove_file(path),
        Ok(()) | Err(Errno::PROTOTYPE | Errno::AGAIN) => {
            let told = "another process answers there";
            Err(io::Error::new(io::ErrorKind::AddrInUse, told))
        }
        Err(error) => Err(error.into()),
    }
}

/// The process that listens there, where it has a place for a caller.
pub fn listener(path: &Path, kind: SocketType) -> Option<Pid> {
    match called(path, kind).ok()? {
        (caller, Ok(())) => socket_peercred(caller).ok().map(|it| it.pid),
        _ => None,
    }
}

/// A socket that called whoever listens there, and what came of it; nothing is waited for.
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
    fn a_socket_takes_the_place_of_a_dead_one_and_of_nothing_else() {
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
    fn a_process_that_stands_still_with_callers_waiting_keeps_its_place_and_nobody_waits_for_it() {
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
