//! A lock file that is held, and a check that it is still in its place. The check does not wait for
//! a hung disk.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Maximum time to wait for one check of the disk.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// Location of a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// It is in its place.
    InPlace,
    /// Its path cannot be followed, or leads to no file or to another one: the file or its
    /// directory was removed, moved or replaced.
    Lost,
    /// Its disk did not answer in time.
    Unknown,
}

/// A held lock. Dropping it, or the end of the process, releases it.
#[derive(Debug)]
pub struct HeldLock {
    _lock: File,
    place: Arc<LockLocation>,
}

/// The path and the identity of a lock file. The file is not open here, because a check may outlive
/// the lock.
#[derive(Debug)]
struct LockLocation {
    path: PathBuf,
    identity: (u64, u64),
    looks: Mutex<LockCheck>,
    over: Condvar,
}

#[derive(Debug)]
struct LockCheck {
    last: Whereabouts,
    /// Start time of the check that is running.
    since: Option<Instant>,
}

impl HeldLock {
    /// Wraps a locked file and the path by which it was opened.
    ///
    /// # Errors
    /// The error of reading the file's metadata.
    pub fn new(lock: File, path: PathBuf) -> io::Result<Self> {
        let looks = LockCheck {
            last: Whereabouts::InPlace,
            since: None,
        };
        let place = Arc::new(LockLocation {
            path,
            identity: identity(&lock.metadata()?),
            looks: Mutex::new(looks),
            over: Condvar::new(),
        });
        Ok(Self { _lock: lock, place })
    }

    /// Checks where the lock file is. Waits for the disk for up to two seconds. If an earlier check
    /// still hangs, the time since its start counts, so a hung disk is not waited for again. If no
    /// thread can be started for the check, returns the last result.
    pub fn whereabouts(&self) -> Whereabouts {
        let place = &self.place;
        let mut looks = place.looks.lock();
        let since = match looks.since {
            Some(since) => since,
            None => {
                let of_thread = place.clone();
                let look = Builder::new().spawn(move || of_thread.look());
                if look.is_err() {
                    return looks.last;
                }
                *looks.since.insert(Instant::now())
            }
        };
        while looks.since == Some(since) {
            let waited = place.over.wait_until(&mut looks, since + LOOK_WITHIN);
            if waited.timed_out() && looks.since == Some(since) {
                return Whereabouts::Unknown;
            }
        }
        looks.last
    }
}

impl LockLocation {
    fn look(&self) {
        let named = self.path.metadata();
        let is_here = named.is_ok_and(|named| identity(&named) == self.identity);
        let mut looks = self.looks.lock();
        looks.last = if is_here {
            Whereabouts::InPlace
        } else {
            Whereabouts::Lost
        };
        looks.since = None;
        self.over.notify_all();
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
