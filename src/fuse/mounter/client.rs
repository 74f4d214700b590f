//! The daemon's side of the mount broker: asks for the mount, and for what only the broker may do
//! with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Means, MountPlace, Mounted};
use crate::broker::protocol::{Reply, Request, receive, send};
use crate::mounting::{MountingError, Standing};

/// How long the broker may take: it looks at a stale mount for up to five seconds.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// A connection to the mount broker; the mount is this daemon's while it stands.
#[derive(Debug)]
pub struct Broker {
    socket: Mutex<OwnedFd>,
}

/// What the broker keeps for a mount from one daemon to the next.
#[derive(Debug)]
pub struct Held {
    /// To ask for more.
    pub broker: Arc<Broker>,
    /// What the last daemon and the kernel agreed to; none for a new mount.
    pub greeting: Option<Vec<u8>>,
    /// What is open in which way: a file in memory.
    pub table: File,
}

impl Broker {
    /// The broker of this machine, where there is one that is for this user.
    ///
    /// # Errors
    /// [`MountingError::NoBroker`] where its socket is there and nobody behind it.
    pub fn reach(path: &Path) -> Result<Option<Arc<Self>>, MountingError> {
        let failed = |why: Errno| MountingError::NoBroker {
            socket: path.to_owned(),
            why: why.into(),
        };
        let flags = SocketFlags::CLOEXEC;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let socket = socket.map_err(failed)?;
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            // none here, or it is somebody else's
            Err(Errno::NOENT | Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(why) => return Err(failed(why)),
        }
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIME)).map_err(failed)?;
        Ok(Some(Arc::new(Self {
            socket: Mutex::new(socket),
        })))
    }

    /// The mount at `dir`: the one that stands, with what the last daemon left, or a new one.
    ///
    /// # Errors
    /// [`MountingError::Refused`] in the broker's words.
    pub fn mount(self: &Arc<Self>, dir: &Path) -> Result<Mounted, MountingError> {
        let dir = dir.as_os_str().as_bytes().to_vec();
        self.mounted(&Request::Mount { dir })
    }

    /// A new mount in place of the one that was handed out, whose readers fail.
    ///
    /// # Errors
    /// [`MountingError::Refused`] in the broker's words.
    pub fn mount_anew(self: &Arc<Self>) -> Result<Mounted, MountingError> {
        self.mounted(&Request::Anew)
    }

    /// Leaves this with the broker for the next daemon.
    ///
    /// # Errors
    /// Where the broker is gone.
    pub fn keep(&self, greeting: Vec<u8>) -> io::Result<()> {
        self.call(&Request::Keep { greeting }, &[]).map(drop)
    }

    /// Lets the kernel read a file by itself, and gives its number.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn register(&self, file: BorrowedFd<'_>) -> io::Result<u32> {
        match self.call(&Request::Register, &[file])? {
            (Reply::Registered { number }, _) => Ok(number),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Not that file any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn release(&self, number: u32) -> io::Result<()> {
        self.call(&Request::Release { number }, &[]).map(drop)
    }

    /// Lets the kernel read so many bytes ahead.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_read_ahead(&self, bytes: u64) -> io::Result<()> {
        self.call(&Request::ReadAhead { bytes }, &[]).map(drop)
    }

    fn mounted(self: &Arc<Self>, request: &Request) -> Result<Mounted, MountingError> {
        let refused = |why: io::Error| MountingError::Refused { why };
        let (reply, descriptors) = self.call(request, &[]).map_err(refused)?;
        let Reply::Mounted {
            dir,
            connection,
            greeting,
        } = reply
        else {
            return Err(refused(io::ErrorKind::InvalidData.into()));
        };
        let Ok([device, table]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return Err(refused(io::ErrorKind::InvalidData.into()));
        };
        let dir = PathBuf::from(std::ffi::OsString::from_vec(dir));
        let place = MountPlace {
            standing: Standing::of_another(dir, connection),
            means: Means::Broker(self.clone()),
        };
        let held = Held {
            broker: self.clone(),
            greeting,
            table: File::from(table),
        };
        Ok(Mounted {
            device,
            place,
            held: Some(held),
        })
    }

    fn call(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<(Reply, Vec<OwnedFd>)> {
        // A panic elsewhere leaves no half of a message: each is sent and received whole.
        let socket = self.socket.lock();
        send(socket.as_fd(), request, descriptors)?;
        match receive(socket.as_fd())? {
            Some((Reply::Refused { errno: 0, why }, _)) => Err(io::Error::other(why)),
            Some((Reply::Refused { errno, .. }, _)) => Err(io::Error::from_raw_os_error(errno)),
            Some(answer) => Ok(answer),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}
