//! Mounting through the setuid helper `fusermount3`, for ordinary users.
//!
//! The helper mounts and sends the device back over a Unix socket, which is passed in the variable
//! `_FUSE_COMMFD` (libfuse, lib/mount.c).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::mounting::{MountingError, READ_MAX_BYTES};

const HELPER: &str = "fusermount3";

/// Mounts at `dir`, never for other users. That would need `user_allow_other` in /etc/fuse.conf,
/// which p2pfs does not require.
pub(super) fn mount(dir: &Path, is_writable: bool) -> Result<OwnedFd, MountingError> {
    let fail = |said: String| MountingError::Fusermount {
        dir: dir.to_owned(),
        said,
    };
    let (ours, helpers) = UnixStream::pair().map_err(|e| fail(e.to_string()))?;
    let child = helper()
        .args(["-o", &options(is_writable), "--"])
        .arg(dir)
        // As standard input, the socket survives the exec without changes of close-on-exec.
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(helpers)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| spawn_failed(&error, dir))?;
    let output = child.wait_with_output().map_err(|e| fail(e.to_string()))?;
    if !output.status.success() {
        let device = super::open_device().err();
        return Err(refused(dir, first_line(&output.stderr), device));
    }
    receive_descriptor(&ours).map_err(|e| fail(format!("it sent no descriptor: {e}")))
}

/// Unmounts lazily.
pub(super) fn unmount(dir: &Path) -> Result<(), MountingError> {
    let output = helper()
        .args(["-u", "-z", "--"])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| spawn_failed(&error, dir))?;
    if output.status.success() {
        return Ok(());
    }
    let why = io::Error::other(first_line(&output.stderr));
    Err(MountingError::Unmount {
        dir: dir.to_owned(),
        why,
    })
}

/// Creates the command of the helper in its own process group. A signal to the group of the daemon
/// (`timeout`, Ctrl-C) would otherwise end it in the middle.
fn helper() -> Command {
    let mut command = Command::new(HELPER);
    command.process_group(0);
    command
}

fn options(is_writable: bool) -> String {
    let access = if is_writable { "rw" } else { "ro" };
    format!(
        "{access},nosuid,nodev,default_permissions,fsname=p2pfs,subtype=p2pfs,max_read={READ_MAX_BYTES}"
    )
}

fn spawn_failed(error: &io::Error, dir: &Path) -> MountingError {
    match error.kind() {
        io::ErrorKind::NotFound => MountingError::FusermountMissing,
        _ => MountingError::Fusermount {
            dir: dir.to_owned(),
            said: error.to_string(),
        },
    }
}

/// Returns the reason why the helper refused. It opens the device with the permissions of its
/// caller, and the error of that open says more than the helper itself.
fn refused(dir: &Path, said: String, device: Option<io::Error>) -> MountingError {
    match device {
        Some(why) => MountingError::NoDevice { why },
        None => MountingError::Fusermount {
            dir: dir.to_owned(),
            said: with_remedy(said),
        },
    }
}

/// Adds a remedy to a message of the helper (libfuse, util/fusermount.c) that has none.
fn with_remedy(said: String) -> String {
    const OWN_FOLDER: &str = "mount at a folder of yours (mount.dir, --mount)";
    const REMEDIES: [(&str, &str); 4] = [
        (
            "mount failed: Operation not permitted",
            "the helper is not set-uid root ('apt install --reinstall fuse3'), or this is a \
             container without the right to mount (--cap-add SYS_ADMIN --device /dev/fuse), where \
             a daemon also does without a mount (mount.enabled = false)",
        ),
        ("no write access to mountpoint", OWN_FOLDER),
        ("not owned by user", OWN_FOLDER),
        (
            "is forbidden",
            "mount at a folder on a disk (mount.dir, --mount)",
        ),
    ];
    let remedy = REMEDIES.iter().find(|(words, _)| said.contains(words));
    match remedy {
        Some((_, remedy)) => format!("{said}: {remedy}"),
        None => said,
    }
}

fn first_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines()
        .next()
        .unwrap_or("it failed without a word")
        .to_owned()
}

fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let rights = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    rights.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

    use super::*;

    #[test]
    fn the_descriptor_that_the_helper_sends_is_received() {
        use std::io::{IoSlice, Read, Write};
        use std::os::fd::AsFd;

        let (ours, helpers) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [writer.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let byte = [IoSlice::new(&[0])];
        rustix::net::sendmsg(&helpers, &byte, &mut control, SendFlags::empty()).unwrap();
        drop(writer);

        let received = receive_descriptor(&ours).unwrap();
        std::fs::File::from(received).write_all(b"x").unwrap();
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_silent_helper_is_an_error_and_not_a_wait() {
        let (ours, helpers) = UnixStream::pair().unwrap();
        drop(helpers);
        assert!(receive_descriptor(&ours).is_err());
    }

    #[test]
    fn a_helper_that_cannot_open_is_reported_with_a_remedy_and_its_own_words() {
        let told = |device| refused(Path::new("/mnt"), "its words".into(), device).to_string();
        assert_eq!(told(None), "fusermount3 cannot mount at /mnt: its words");
        let forbidden = told(Some(io::ErrorKind::PermissionDenied.into()));
        assert!(
            forbidden.starts_with("cannot open /dev/fuse: "),
            "{forbidden}"
        );
    }

    #[test]
    fn a_helper_error_without_a_remedy_gets_one() {
        for (said, helps) in [
            (
                "fusermount3: mount failed: Operation not permitted",
                "set-uid root",
            ),
            (
                "fusermount3: user has no write access to mountpoint /srv",
                "a folder of yours",
            ),
            (
                "fusermount3: mountpoint /srv not owned by user",
                "a folder of yours",
            ),
            (
                "fusermount3: mounting over filesystem type 0x00009fa0 is forbidden",
                "on a disk",
            ),
        ] {
            let told = refused(Path::new("/srv"), said.to_owned(), None).to_string();
            assert!(told.contains(said) && told.contains(helps), "{told}");
        }
        let own = "fusermount3: too many FUSE filesystems mounted; mount_max=N can be set in /etc";
        assert_eq!(with_remedy(own.to_owned()), own);
    }

    #[test]
    fn a_missing_helper_names_its_package() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        let said = spawn_failed(&missing, Path::new("/mnt")).to_string();
        assert!(said.contains("apt install fuse3"), "{said}");
    }
}
