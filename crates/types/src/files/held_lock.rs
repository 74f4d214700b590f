//! A lock file that is held, and whether it still is where it was made; nobody who asks that waits
//! for a disk that stands still.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long a look at the disk is waited for.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// Where a lock is by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Where it was made.
    InPlace,
    /// It was removed, moved or replaced, or its directory was.
    Lost,
    /// Its disk does not answer.
    Unknown,
}

/// The lock. Dropping it gives it back, and so does a kill.
#[derive(Debug)]
pub struct HeldLock {
    _lock: File,
    place: Arc<Place>,
}

/// Knows the file without holding it open: a look may outlive the lock.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    identity: (u64, u64),
    looks: Mutex<Looks>,
    over: Condvar,
}

#[derive(Debug)]
struct Looks {
    last: Whereabouts,
    /// Since when one is under way.
    since: Option<Instant>,
}

impl HeldLock {
    /// Of a file that was locked, and the path that it was opened by.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn new(lock: File, path: PathBuf) -> io::Result<Self> {
        let looks = Looks {
            last: Whereabouts::InPlace,
            since: None,
        };
        let place = Arc::new(Place {
            path,
            identity: identity(&lock.metadata()?),
            looks: Mutex::new(looks),
            over: Condvar::new(),
        });
        Ok(Self { _lock: lock, place })
    }

    /// Where it is now. Waits for the disk for a moment, and for one that stands still no second
    /// time.
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

impl Place {
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
