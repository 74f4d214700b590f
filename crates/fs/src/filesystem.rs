//! The filesystem of one mount, and its parts.
//!
//! Each call of the kernel is one method of a part. Start reading at [`InodeResolver`].
//!
//! ```text
//!                Directories   OpenFiles -- Changes
//!                      \         /
//!  ForeignInodes      InodeResolver      OpenFollower
//!        |               |                    |
//!        |          KernelCaches              |
//!        \               |                    /
//!                 MountNamespace -- Content
//! ```
//!
//! No method blocks on the network, except those of [`Changes`] that copy a file of another node:
//! reads of missing bytes and the methods of [`ForeignInodes`] call a reply later. Methods may wait for a local disk. No method holds a lock while it calls
//! [`Content`].

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::changes::Changes;
use super::directory::Listings;
use super::files::OpenFiles;
use super::follow::OpenFollower;
use super::foreign::ForeignInodes;
use super::handles::Handles;
use super::inherited::Inherited;
use super::inodes::Inodes;
use super::listing::Directories;
use super::modes::Modes;
use super::namespace::MountNamespace;
use super::possible::PossibleNames;
use super::resolver::InodeResolver;
use super::staleness::KernelCaches;
use super::stat::AttributeReader;
use super::traits::Content;

/// Default mask of permissions: only the owner could write, as with the usual umask(2).
pub const DEFAULT_MASK: u16 = 0o022;

/// Owner, group and permission masks of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// User ID of all files and directories.
    pub uid: u32,
    /// Group ID of all files and directories.
    pub gid: u32,
    /// Permission bits that files do not have.
    pub file_mask: u16,
    /// Permission bits that directories do not have.
    pub directory_mask: u16,
}

/// Interval of the checks in [`Filesystem::await_namespace`].
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The filesystem of one mount.
pub struct Filesystem {
    /// The names that the mount shows.
    pub namespace: Arc<MountNamespace>,
    /// Lookups, attributes and link targets.
    pub inodes: Arc<InodeResolver>,
    /// The directories and their listings.
    pub directories: Directories,
    /// The open files.
    pub files: Arc<OpenFiles>,
    /// The changes that programs make.
    pub changes: Changes,
    /// The files that only foreign peers may have.
    pub foreign: ForeignInodes,
    /// Requests of small files before their opens.
    pub follower: OpenFollower,
    /// Invalidations of the kernel's caches.
    pub caches: Arc<KernelCaches>,
    known: Arc<Inodes>,
    handles: Arc<Handles>,
    inherited: Arc<OnceLock<Inherited>>,
}

impl Filesystem {
    /// Creates a filesystem with an empty inode table.
    pub fn new(content: Arc<dyn Content>, options: Options) -> Self {
        let namespace = Arc::new(MountNamespace::new(content));
        let known = Arc::new(Inodes::new());
        let handles = Arc::<Handles>::default();
        let modes = Arc::<Modes>::default();
        let inherited = Arc::<OnceLock<Inherited>>::default();
        let attributes = Arc::new(AttributeReader {
            namespace: namespace.clone(),
            modes: modes.clone(),
            options,
        });
        let caches = Arc::new(KernelCaches {
            invalidator: OnceLock::new(),
            namespace: namespace.clone(),
            inodes: known.clone(),
            handles: handles.clone(),
            inherited: inherited.clone(),
        });
        let possible = Arc::new(PossibleNames {
            namespace: namespace.clone(),
            caches: caches.clone(),
            slots: Mutex::default(),
        });
        let inodes = Arc::new(InodeResolver {
            namespace: namespace.clone(),
            known: known.clone(),
            modes: modes.clone(),
            attributes: attributes.clone(),
            caches: caches.clone(),
            possible: possible.clone(),
            inherited: inherited.clone(),
        });
        let directories = Directories {
            namespace: namespace.clone(),
            inodes: inodes.clone(),
            attributes: attributes.clone(),
            caches: caches.clone(),
            listings: Listings::default(),
        };
        let files = Arc::new(OpenFiles {
            namespace: namespace.clone(),
            inodes: inodes.clone(),
            caches: caches.clone(),
            handles: handles.clone(),
            modes,
            inherited: inherited.clone(),
            backing: OnceLock::new(),
        });
        let changes = Changes::new(&namespace, &inodes, &known, &files);
        let foreign = ForeignInodes {
            namespace: namespace.clone(),
            inodes: known.clone(),
            handles: handles.clone(),
            attributes,
            possible,
        };
        Self {
            follower: OpenFollower::new(namespace.clone(), known.clone()),
            namespace,
            inodes,
            directories,
            files,
            changes,
            foreign,
            caches,
            known,
            handles,
            inherited,
        }
    }

    /// Returns the number of inodes that the kernel knows, and the number of open handles.
    pub fn open_counts(&self) -> (usize, usize) {
        (self.known.count(), self.handles.count())
    }

    /// Waits until the namespace has as many entries as the previous process recorded, and writable
    /// shares if that process had some, or until the timeout. Returns at once if there was no
    /// previous process.
    pub fn await_namespace(&self, timeout: Duration) {
        let Some(inherited) = self.inherited.get() else {
            return;
        };
        let (entries, is_writable) = (inherited.entries(), inherited.is_writable());
        let is_there = || {
            let present = self.namespace.content.view().totals().entries;
            present >= entries && (!is_writable || self.namespace.folders().is_some())
        };
        let until = Instant::now() + timeout;
        while !is_there() && Instant::now() < until {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Records the state of the namespace for the next process: the number of entries, and whether
    /// there are writable shares.
    pub fn record_namespace(&self) {
        if let Some(inherited) = self.inherited.get() {
            let entries = self.namespace.content.view().totals().entries;
            inherited.record_namespace(entries, self.namespace.folders().is_some());
        }
    }
}
