//! A mount, from the mount point to the threads that serve it. Combines the mounter, the filesystem
//! and the server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::mounter::{self, AcquiredMount, KeptMountState, MountPlace};
use super::{Activity, ReaderReport, Readers, ServedMount, ServerOptions};
use crate::mounting::{MountRequest, MountingError};
use p2pfs_fs::{
    Change, Content, ContentHash, DEFAULT_MASK, Filesystem, Invalidator, Options, READ_AHEAD_BYTES,
    SharedPath, View,
};

/// How long an unmount waits until the last request has ended and the threads that serve the mount
/// have exited. The mount itself disappears without the wait.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time before a mount that was taken over from the previous process is served, while fewer
/// names are listed than that process recorded last. Names of other nodes arrive by messages a
/// short time after the start. Without the wait, programs would see directories that are only
/// partly filled.
const NAMESPACE_TIME: Duration = Duration::from_secs(3);

/// Options of a mount.
#[derive(Clone, Copy, Debug)]
pub struct MountOptions {
    /// Owner of the files.
    pub uid: u32,
    /// Group of the files.
    pub gid: u32,
    /// Permission bits removed from files.
    pub file_mask: u16,
    /// Permission bits removed from directories.
    pub directory_mask: u16,
    /// Whether all users may access the mount. Only mounts of root can allow this.
    pub allow_other: bool,
    /// Whether programs may write in the mount at some time. Only a mount of fusermount3 depends on
    /// it, because that cannot be changed by [`Mount::set_writable`].
    pub may_be_written: bool,
    /// Read-ahead of the kernel in bytes, if the process that mounts may set it. Otherwise the
    /// kernel uses its default of 128 KiB.
    pub read_ahead_bytes: u64,
    /// Options of the server.
    pub server: ServerOptions,
}

impl MountOptions {
    /// Returns the options for the current user. A mount of root, and therefore of the broker, is
    /// accessible to all users. A mount of another user is accessible only to that user.
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
            may_be_written: false,
            read_ahead_bytes: READ_AHEAD_BYTES,
            server: ServerOptions::default(),
        }
    }
}

/// Reason why mounting failed. A mount that the broker made stays with the broker; any other is
/// removed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Problem of the mount point or of the permissions for it.
    #[error(transparent)]
    Mounting(#[from] MountingError),
    /// The mount was made, but the handshake with the kernel or the start of the server failed.
    #[error("cannot serve the mount at {}: {why}", dir.display())]
    Serve {
        /// Mount point.
        dir: PathBuf,
        /// Cause of the failure.
        why: io::Error,
    },
}

/// A mount that is not served yet: programs that access it wait.
#[derive(Debug)]
pub struct PendingMount(AcquiredMount);

impl PendingMount {
    /// Mounts. Cleans up a stale mount of a killed daemon first. Blocks for the mount broker.
    ///
    /// # Errors
    /// [`MountError::Mounting`], with the place and the remedy.
    pub fn acquire(dir: &Path, options: &MountOptions) -> Result<Self, MountError> {
        let request = MountRequest {
            dir: dir.to_owned(),
            uid: options.uid,
            gid: options.gid,
            allow_other: options.allow_other,
        };
        Ok(Self(mounter::mount(&request, options.may_be_written)?))
    }

    /// Serves `content`. Blocks until the mount is usable.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn serve(
        self,
        content: Arc<dyn Content>,
        options: &MountOptions,
    ) -> Result<Mount, MountError> {
        Mount::take(self.0, content, options)
    }

    /// Unmounts, unless the mount broker keeps the mount. After an unmount, programs that wait get
    /// an error.
    ///
    /// # Errors
    /// [`MountError::Mounting`] if the mount cannot be removed.
    pub fn abandon(self) -> Result<(), MountError> {
        Ok(self.0.place.unmount()?)
    }
}

/// An active mount; dropping it ends it.
pub struct Mount {
    place: MountPlace,
    server: ServedMount,
    fs: Arc<Filesystem>,
    not_taken_over: Option<String>,
}

impl Mount {
    /// Mounts and serves `content`. Cleans up a stale mount of a killed daemon first. Blocks until
    /// the mount is usable.
    ///
    /// # Errors
    /// [`MountError`], with the place and the remedy.
    pub fn start(
        dir: &Path,
        content: Arc<dyn Content>,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        PendingMount::acquire(dir, options)?.serve(content, options)
    }

    /// Mounts again at `dir` after the mount broker ended and its mount with it. Blocks until the
    /// mount is usable.
    ///
    /// # Errors
    /// [`MountError`], also if no new broker has started.
    pub fn start_again(
        &self,
        dir: &Path,
        content: Arc<dyn Content>,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        Self::take(self.place.mount_by_next(dir)?, content, options)
    }

    fn take(
        mounted: AcquiredMount,
        content: Arc<dyn Content>,
        options: &MountOptions,
    ) -> Result<Self, MountError> {
        let is_kept = mounted.is_kept();
        let not_served = |(place, why): (MountPlace, io::Error)| MountError::Serve {
            dir: place.standing.dir().to_owned(),
            why,
        };
        match Self::serve(mounted, content.clone(), options) {
            // Programs with open files on the old mount get errors; new opens succeed.
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

    /// Serves a mount. Returns its place together with the error on failure.
    fn serve(
        mounted: AcquiredMount,
        content: Arc<dyn Content>,
        options: &MountOptions,
    ) -> Result<Self, (MountPlace, io::Error)> {
        let AcquiredMount {
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
        let inherit = |held: &KeptMountState| {
            fs.files.inherit(held.table.try_clone()?)?;
            fs.await_namespace(NAMESPACE_TIME);
            fs.files.hold_inherited();
            Ok(())
        };
        let inherited = held.as_ref().map_or(Ok(()), inherit);
        let start = || ServedMount::start(device, fs.clone(), options.server, held.as_ref());
        match inherited.and_then(|()| start()) {
            Ok(server) => {
                // Not every process that mounts may set the read-ahead, and reads are correct
                // without it.
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

    /// Returns the reason why the mount of the previous process was replaced by a new one, if that
    /// happened.
    pub fn not_taken_over(&self) -> Option<&str> {
        self.not_taken_over.as_deref()
    }

    /// Makes the mount writable or read-only. It is read-only at first, and the kernel then answers
    /// each write with EROFS. Blocks for the mount broker.
    ///
    /// # Errors
    /// [`MountingError`], for example if a program has a file open for writing and the mount is to
    /// be read-only.
    pub fn set_writable(&self, is_writable: bool) -> Result<(), MountingError> {
        self.place.set_writable(is_writable)
    }

    /// Notifies the kernel of changes, and then shows the namespace that includes them. `view` is
    /// `None` for changes of files of foreign peers. Never waits.
    pub fn invalidate(&self, view: Option<Arc<View>>, changes: Vec<Change>) {
        self.fs.caches.namespace_changed(view, changes);
    }

    /// Makes the kernel revalidate everything, for changes that this mount was not notified of.
    /// Never waits.
    pub fn invalidate_all(&self) {
        self.fs.caches.everything_changed();
    }

    /// Returns whether a lookup finds this name now.
    pub fn shows(&self, path: &SharedPath) -> bool {
        self.fs.namespace.shows(path)
    }

    /// Returns whether lookups reflect everything that is known by now.
    pub fn is_up_to_date(&self) -> bool {
        self.fs.namespace.is_up_to_date()
    }

    /// Notifies the kernel that another part of a content is cached (`st_blocks`).
    pub fn cached_changed(&self, hash: &ContentHash) {
        self.fs.caches.cached_changed(hash);
    }

    /// Returns the interface for invalidating single inodes.
    pub fn invalidator(&self) -> Arc<dyn Invalidator> {
        self.server.queues.clone()
    }

    /// Returns the mount point without symbolic links.
    pub fn dir(&self) -> &Path {
        self.place.standing.dir()
    }

    /// Records the state of the namespace for the next process. To be called about once a second.
    pub fn record_namespace(&self) {
        self.fs.record_namespace();
    }

    /// Returns whether the mount is in place and served.
    pub fn is_mounted(&self) -> bool {
        !self.server.end.is_over() && self.place.standing.is_mounted()
    }

    /// Returns whether a mount broker made the mount.
    pub fn is_brokers(&self) -> bool {
        self.place.outlives_us()
    }

    /// Checks whether the mount broker is still running. To be called about once a second. Never
    /// waits.
    pub fn check_broker(&self) {
        self.place.check_broker();
    }

    /// Returns whether the mount is gone because its broker ended. Only then can it be mounted
    /// again without undoing a manual unmount. Waits for the answer of the broker.
    pub fn broker_ended(&self) -> bool {
        self.place.broker_ended()
    }

    /// Returns why the mount is gone, as text for users. The text ends with a remedy, after a
    /// semicolon, unless the folder must be mounted again.
    pub fn why_gone(&self) -> String {
        let standing = &self.place.standing;
        match (standing.is_mounted(), standing.covered_by()) {
            (true, _) => "its connection was aborted".into(),
            (false, Some(other)) => {
                format!("another filesystem ({other}) is mounted over it; umount that one")
            }
            (false, None) => "it was unmounted by hand".into(),
        }
    }

    /// Returns whether the serving threads answer within `timeout`. Does not access the mount,
    /// because a process that waits for its own mount cannot be killed.
    pub fn answers(&self, timeout: Duration) -> bool {
        let device = &self.server.device;
        let ask = |message: &[u8]| device.session.send(message);
        device.mount.liveness.is_alive(ask, timeout)
    }

    /// Returns the programs that read in the mount, with their rules.
    pub fn readers(&self) -> &Readers {
        &self.server.device.mount.readers
    }

    /// Returns the readers and their files: waiting ones first, then by rate, then by bytes read.
    pub fn report_readers(&self) -> Vec<ReaderReport> {
        let device = &self.server.device;
        device
            .mount
            .readers
            .report(&device.mount.requests.table.waits())
    }

    /// Returns the counters since this process began to serve the mount, and the current state.
    pub fn activity(&self) -> Activity {
        let (inodes, handles) = self.fs.open_counts();
        let device = &self.server.device;
        Activity {
            waiting: device.mount.requests.table.count() as u64,
            inodes: inodes as u64,
            handles: handles as u64,
            ..device.mount.requests.counters.activity()
        }
    }

    /// Returns why complete files are read through the daemon, if the kernel refused passthrough.
    pub fn passthrough_refusal(&self) -> Option<String> {
        self.server.passthrough.refusal()
    }

    /// Returns why the kernel does not read files of the file system of `dir` itself, although it
    /// can use passthrough. Tries it with an unnamed file there. Blocks on the disk.
    pub fn passthrough_refusal_in(&self, dir: &Path) -> Option<String> {
        self.server.passthrough.refusal_in(dir)
    }

    /// Ends serving. Hands a mount of the broker over to the next process and unmounts any other. A
    /// second call does nothing.
    ///
    /// # Errors
    /// If the kernel refuses to unmount; the mount then still exists.
    pub fn end(&self) -> Result<(), MountingError> {
        if self.place.outlives_us() {
            self.hand_over();
            Ok(())
        } else {
            self.unmount()
        }
    }

    /// Leaves a mount of the broker with it: no request is answered any longer, and programs wait
    /// for the next process. Call it before the content loses its shares and its log, so that no
    /// program gets an error from that. Does nothing with any other mount. Never waits.
    pub fn hand_over(&self) {
        if self.place.outlives_us() && !self.server.device.mount.kernel.is_handed_over() {
            self.fs.record_namespace();
            self.server.device.mount.kernel.hand_over();
        }
    }

    /// Unmounts, even under load. All waiting requests get an error at once.
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
