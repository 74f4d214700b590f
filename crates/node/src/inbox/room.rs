//! The used space of an inbox, in total and by sender.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::origin::ChargedSender;

/// How long a scan of the folder stays valid.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(1);

/// Pushed files by name, with the sender to which they are charged, if known.
pub(super) type PushedNames = HashMap<Vec<u8>, Option<ChargedSender>>;

/// The files in the folder and the files in transfer.
#[derive(Debug, Default)]
pub(super) struct InboxUsage {
    pub(super) held_bytes: u64,
    pub(super) held_files: u64,
    pub(super) known_at: Option<Instant>,
    pub(super) coming_bytes: u64,
    pub(super) coming_files: u64,
    /// The files of each sender in the folder.
    pub(super) held_of: HashMap<ChargedSender, StorageAmount>,
    /// The files in transfer of each sender.
    coming_of: HashMap<ChargedSender, StorageAmount>,
    /// Size of the last file that the inbox or its disk had no room for, until `Inbox::still_lacks`
    /// finds that there is room.
    pub(super) refused_bytes: Option<u64>,
}

/// A number of files and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StorageAmount {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl InboxUsage {
    pub(super) fn is_fresh(&self) -> bool {
        self.known_at.is_some_and(|at| at.elapsed() < KNOWN_FOR)
    }

    /// Counts the regular files in the folder. Charges a file in `taken` to its sender, if that is
    /// known. Locks `taken` for each name alone, so that a disk that hangs keeps no lock.
    pub(super) fn scan(&mut self, dir: &Path, taken: &Mutex<PushedNames>) -> io::Result<()> {
        (self.held_bytes, self.held_files) = (0, 0);
        self.held_of.clear();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            // A file that is removed during the scan takes no space.
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if !found.is_file() {
                continue;
            }
            self.held_bytes += found.len();
            self.held_files += 1;
            let origin = taken.lock().get(entry.file_name().as_bytes()).copied();
            if let Some(Some(origin)) = origin {
                self.held_of.entry(origin).or_default().add(found.len());
            }
        }
        self.known_at = Some(Instant::now());
        Ok(())
    }

    pub(super) fn expect(&mut self, origin: ChargedSender, size_bytes: u64) {
        self.coming_bytes = self.coming_bytes.saturating_add(size_bytes);
        self.coming_files += 1;
        self.coming_of.entry(origin).or_default().add(size_bytes);
    }

    pub(super) fn expect_no_more(&mut self, origin: &ChargedSender, size_bytes: u64) {
        self.coming_bytes = self.coming_bytes.saturating_sub(size_bytes);
        self.coming_files = self.coming_files.saturating_sub(1);
        if let Some(amount) = self.coming_of.get_mut(origin) {
            amount.bytes = amount.bytes.saturating_sub(size_bytes);
            amount.files = amount.files.saturating_sub(1);
            if amount.files == 0 {
                self.coming_of.remove(origin);
            }
        }
    }

    pub(super) fn mark_stored(&mut self, origin: ChargedSender, size_bytes: u64) {
        self.held_bytes += size_bytes;
        self.held_files += 1;
        self.held_of.entry(origin).or_default().add(size_bytes);
    }

    /// Returns the files and bytes of one sender, in the folder and in transfer.
    pub(super) fn of(&self, origin: &ChargedSender) -> StorageAmount {
        let part =
            |amounts: &HashMap<_, StorageAmount>| amounts.get(origin).copied().unwrap_or_default();
        let (held, coming) = (part(&self.held_of), part(&self.coming_of));
        StorageAmount {
            bytes: held.bytes.saturating_add(coming.bytes),
            files: held.files + coming.files,
        }
    }
}

impl StorageAmount {
    pub(super) fn add(&mut self, size_bytes: u64) {
        self.bytes = self.bytes.saturating_add(size_bytes);
        self.files += 1;
    }
}
