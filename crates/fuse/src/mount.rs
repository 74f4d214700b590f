//! One mount, from the mount point to the threads that serve it: ties the broker's calls, the
//! filesystem and the server together.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::mounter::{self, Held, MountPlace, Mounted};
use super::{Activity, ReaderBudget, ReaderReport, Server, ServerOptions};
use crate::mounting::{MountRequest, MountingError};
use p2pfs_fs::{
    Change, Content, ContentHash, DEFAULT_MASK, Filesystem, Invalidator, Options, SharedPath, View,
};

/// How long an unmount waits for the last request to end. It is not needed for the mount to be
/// gone, only for its threads.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the readers of a mount that is taken up wait for the namespace to be as large again as
/// it was: the other nodes must be heard first, which takes a moment.
const NAMESPACE_TIME: Duration = Duration::from_secs(3);

/// How to mount.
#[derive(Clone, Copy, Debug)]
pub struct MountOptions {
    /// Who owns the files.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// Which permissions files do not have.
    pub file_mask: u16,
    /// Which permissions directories do not have.
    pub directory_mask: u16,
    /// Whether all users may use it; only root's mounts can be so.
    pub allow_other: bool,
    /// How far the kernel reads ahead in bytes, where it lets us say so; else it keeps to its own
    /// default of 128 KiB.
    pub read_ahead_bytes: u64,
    /// How it is served.
    pub server: ServerOptions,
}

impl MountOptions {
    /// For the user who runs this: root's mount is for all, and so is a broker's, which is root's;
    /// a user's is for that user alone.
    pub fn for_this_user() -> Self {
        let uid = if mounter::has_broker() {
            rustix::process::Uid::ROOT
        } else {
            rustix::process::geteuid()
        };
        let gid = if uid.is_root() {
            rustix::process::Gid::ROOT
        } else {
            rustix::process::getegid()
        };
        Self {
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            file_mask: DEFAULT_MASK,
            directory_mask: DEFAULT_MASK,
            allow_other: uid.is_root(),
            read_ahead_bytes: 4 << 20,
            server: ServerOptions::default(),
        }
    }
}

/// Why there is no mount. None is left behind.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point or the rights to it.
    #[error(transparent)]
    Mounting(#[from] MountingError),
    /// It was mounted, but the kernel and we did not come to terms.
    #[error("cannot serve the mount at {}: {why}", dir.display())]
    Serve {
        /// The mount point.
        dir: PathBuf,
        why: io::Error,
    },
}

/// A mount that stands; dropping it takes it away.
pub struct Mount {
    place: MountPlace,
    server: Server,
    fs: Arc<Filesystem>,
    not_taken_over: Option<String>,
}

impl Mount {
    /// Mounts, and serves what `content` has. A stale mount of a daemon that was killed is cleaned
    /// away first. Blocks until the mount can be used.
    ///
    /// # Errors
    /// [`MountError`], naming the place and the remedy.
    pub fn start(
        dir: &Path,
        content: Arc<dyn Content>,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let request = MountRequest {
            dir: dir.to_owned(),
            uid: options.uid,
            gid: options.gid,
            allow_other: options.allow_other,
        };
        Self::take(mounter::mount(&request)?, content, options)
    }

    /// Mounts anew, at `dir` again, where the mount broker ended and the mount with it. Blocks as
    /// the start does.
    ///
    /// # Errors
    /// As at the start; also where no broker came after that one.
    pub fn start_again(
        &self,
        dir: &Path,
        content: Arc<dyn Content>,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        Self::take(self.place.mount_by_next(dir)?, content, options)
    }

    fn take(
        mounted: Mounted,
        content: Arc<dyn Content>,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let is_kept = mounted.is_kept();
        let not_served = |(place, why): (MountPlace, io::Error)| MountError::Serve {
            dir: place.standing.dir().to_owned(),
            why,
        };
        match Self::serve(mounted, content.clone(), options) {
            // Who had it open fails now, and everybody else goes on.
            Err((place, why)) if is_kept => {
                tracing::debug!(%why, "the mount cannot be taken up");
                let mounted = place.mount_anew()?;
                let mut mount = Self::serve(mounted, content, options).map_err(not_served)?;
                mount.not_taken_over = Some(why.to_string());
                Ok(mount)
            }
            served => served.map_err(not_served),
        }
    }

    /// What could not be served is told with its place.
    fn serve(
        mounted: Mounted,
        content: Arc<dyn Content>,
        options: &MountOptions,
    ) -> Result<Self, (MountPlace, io::Error)> {
        let Mounted {
            device,
            place,
            held,
        } = mounted;
        let fs_options = Options {
            uid: options.uid,
            gid: options.gid,
            file_mask: options.file_mask,
            directory_mask: options.directory_mask,
        };
        let fs = Arc::new(Filesystem::new(content, fs_options));
        let inherit = |held: &Held| {
            fs.inherit(held.table.try_clone()?)?;
            fs.await_entries(NAMESPACE_TIME);
            fs.hold_inherited();
            Ok(())
        };
        let inherited = held.as_ref().map_or(Ok(()), inherit);
        let start = || Server::start(device, fs.clone(), options.server, held.as_ref());
        match inherited.and_then(|()| start()) {
            Ok(server) => {
                // Not every mounter may set it, and reads are as right without it.
                let _ = place.set_read_ahead(options.read_ahead_bytes);
                Ok(Self {
                    place,
                    server,
                    fs,
                    not_taken_over: None,
                })
            }
            Err(why) => {
                let _ = place.unmount();
                Err((place, why))
            }
        }
    }

    /// Why the mount of the process before was not taken over, where there was one, and this is a
    /// new one in its place.
    pub fn not_taken_over(&self) -> Option<&str> {
        self.not_taken_over.as_deref()
    }

    /// Tells the kernel what changed, and then shows the namespace that has these changes; none
    /// where they are of what legacy peers have. Never waits.
    pub fn invalidate(&self, view: Option<Arc<View>>, changes: Vec<Change>) {
        self.fs.namespace_changed(view, changes);
    }

    /// Has the kernel look at everything again, which may have changed while nobody told this
    /// mount. Never waits.
    pub fn invalidate_all(&self) {
        self.fs.everything_changed();
    }

    /// Whether a program that looks finds this name now.
    pub fn shows(&self, path: &SharedPath) -> bool {
        self.fs.shows(path)
    }

    /// Whether a program that looks finds all that is known by now.
    pub fn is_up_to_date(&self) -> bool {
        self.fs.is_up_to_date()
    }

    /// Tells the kernel that another part of a content is cached than before (`st_blocks`).
    pub fn cached_changed(&self, hash: &ContentHash) {
        self.fs.cached_changed(hash);
    }

    /// Where single inodes can be said to be stale.
    pub fn invalidator(&self) -> Arc<dyn Invalidator> {
        self.server.queue.clone()
    }

    /// The mount point, without symbolic links.
    pub fn dir(&self) -> &Path {
        self.place.standing.dir()
    }

    /// Notes how much is listed, for the process that may come next: about once a second.
    pub fn note_listed(&self) {
        self.fs.note_listed();
    }

    /// Whether the mount stands in its place and is served.
    pub fn is_mounted(&self) -> bool {
        !self.server.end.is_over() && self.place.standing.is_mounted()
    }

    /// Whether a mount broker made it.
    pub fn is_brokers(&self) -> bool {
        self.place.outlives_us()
    }

    /// Looks whether the mount broker still is there: about once a second. Never waits.
    pub fn look_at_broker(&self) {
        self.place.look_at_broker();
    }

    /// Whether it is gone because its mount broker ended, so that it can be mounted anew without
    /// undoing what somebody did by hand. Waits for the broker's answer.
    pub fn broker_ended(&self) -> bool {
        self.place.broker_ended()
    }

    /// Why it is not mounted any more and what to do, for people.
    pub fn why_gone(&self) -> String {
        let standing = &self.place.standing;
        match (standing.is_mounted(), standing.covered_by()) {
            (true, _) => "its connection was aborted; restart the daemon to mount it again".into(),
            (false, Some(other)) => {
                format!("another filesystem ({other}) is mounted over it: umount that one")
            }
            (false, None) => {
                "it was unmounted by hand; restart the daemon to mount it again".into()
            }
        }
    }

    /// Whether the threads that serve it answer within this time, found out without the kernel: a
    /// process that waits for its own mount cannot be killed.
    pub fn answers(&self, timeout: Duration) -> bool {
        let device = &self.server.device;
        let ask = |message: &[u8]| device.ask_session(message);
        device.pulse.is_alive(ask, timeout)
    }

    /// Which programs are given cached bytes only from now on, and EACCES for the rest: names of
    /// processes, and of a service manager's units.
    pub fn set_cached_only(&self, programs: Vec<String>) {
        self.server.device.readers.set_cached_only(programs);
    }

    /// Which programs have so many bytes fetched a second from now on: names as above. Cached
    /// bytes are never slowed.
    pub fn set_budgets(&self, budgets: Vec<ReaderBudget>) {
        self.server.device.readers.set_budgets(budgets);
    }

    /// Takes the readers' speeds, and forgets those that have gone: about once a second.
    pub fn look_at_readers(&self) {
        self.server.device.readers.look_around();
    }

    /// Returns the files that a user's processes have open or read lately, as paths from the root.
    pub fn files_read_by(&self, uid: u32) -> Vec<Box<[u8]>> {
        self.server.device.readers.files_of(uid)
    }

    /// Who reads what: first those that wait, then the fastest, then those that read most.
    pub fn readers(&self) -> Vec<ReaderReport> {
        let device = &self.server.device;
        device.readers.report(&device.table.waits())
    }

    /// What it has done since it began, and what it holds.
    pub fn activity(&self) -> Activity {
        let (inodes, handles) = self.fs.held();
        let device = &self.server.device;
        Activity {
            waiting: device.table.count() as u64,
            inodes: inodes as u64,
            handles: handles as u64,
            ..device.counters.activity()
        }
    }

    /// Why complete files are read through the daemon, if the kernel refused to read them itself.
    pub fn passthrough_refusal(&self) -> Option<String> {
        self.server.passthrough.refusal()
    }

    /// Ends serving: a mount that a broker holds is handed over, any other taken away. Does nothing
    /// the second time.
    ///
    /// # Errors
    /// Where the kernel refuses to unmount; the mount is then still there.
    pub fn end(&self) -> Result<(), MountingError> {
        if self.place.outlives_us() {
            self.hand_over();
            Ok(())
        } else {
            self.unmount()
        }
    }

    /// The mount stays with the broker, and whoever waits in it waits for the next process.
    fn hand_over(&self) {
        self.fs.note_listed();
        self.server.device.hand_over();
    }

    /// Also under load: whoever waits in the mount gets an error at once.
    fn unmount(&self) -> Result<(), MountingError> {
        self.place.unmount()?;
        self.server.end.wait(END_TIMEOUT);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.end();
    }
}
