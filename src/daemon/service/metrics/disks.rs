//! The free space of the daemon's disks, of which any may hang.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use p2pfs_node::api::DiskRoom;

/// How long a reader of the metrics waits for the free space of one disk.
const DISK_PATIENCE: Duration = Duration::from_millis(500);

type ReadRoom = Arc<dyn Fn(&Path) -> Option<DiskRoom> + Send + Sync>;

/// Reads the free space of the disks of some directories. While a disk hangs, it blocks one thread,
/// however many readers ask.
pub(super) struct Disks {
    disks: Vec<WatchedDisk>,
    read: ReadRoom,
}

struct WatchedDisk {
    name: &'static str,
    dir: PathBuf,
    /// A call that has not ended, or whose result no reader has received.
    pending: Mutex<Option<JoinHandle<Option<DiskRoom>>>>,
}

impl Disks {
    /// `dirs` are directories on the disks, each with its name in the metrics.
    pub(super) fn new(dirs: impl IntoIterator<Item = (&'static str, PathBuf)>) -> Self {
        let disk = |(name, dir)| WatchedDisk {
            name,
            dir,
            pending: Mutex::default(),
        };
        Self {
            disks: dirs.into_iter().map(disk).collect(),
            read: Arc::new(DiskRoom::of),
        }
    }

    /// Returns the free space of each disk that answers in time, with the name of its directory.
    pub(super) async fn rooms(&self) -> Vec<(&'static str, DiskRoom)> {
        let mut rooms = Vec::new();
        for disk in &self.disks {
            if let Ok(Some(room)) = timeout(DISK_PATIENCE, disk.room(&self.read)).await {
                rooms.push((disk.name, room));
            }
        }
        rooms
    }
}

impl WatchedDisk {
    async fn room(&self, read: &ReadRoom) -> Option<DiskRoom> {
        let mut pending = self.pending.lock().await;
        let call = pending.get_or_insert_with(|| {
            let (read, dir) = (read.clone(), self.dir.clone());
            tokio::task::spawn_blocking(move || read(&dir))
        });
        let room = call.await;
        *pending = None;
        room.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[tokio::test]
    async fn a_disk_that_hangs_blocks_one_thread_and_hides_no_other_disk() {
        let (release, released) = mpsc::channel::<()>();
        let released = parking_lot::Mutex::new(released);
        let calls = Arc::new(AtomicUsize::new(0));
        let mut disks = Disks::new([("hung", "/hung".into()), ("well", "/".into())]);
        let counted = calls.clone();
        disks.read = Arc::new(move |dir| {
            if dir == Path::new("/hung") {
                counted.fetch_add(1, Ordering::Relaxed);
                released.lock().recv().ok()?;
            }
            DiskRoom::of(Path::new("/"))
        });
        let names = |rooms: Vec<(&'static str, DiskRoom)>| -> Vec<_> {
            rooms.into_iter().map(|(name, _)| name).collect()
        };
        for _ in 0..2 {
            assert_eq!(names(disks.rooms().await), ["well"]);
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        release.send(()).unwrap();
        assert_eq!(names(disks.rooms().await), ["hung", "well"]);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
