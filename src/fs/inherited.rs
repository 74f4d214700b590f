//! What is open, written down for the process that serves the mount next.
//!
//! The kernel goes on with the handles, and the modes of their inodes, that this process gave it.
//! So each open is a record in a file that outlives us (the mount broker keeps one in memory): the
//! next process reads it and answers for handles that it never gave. A record is written before the
//! kernel hears of its handle, so after a kill one may be too many there, never too few: an inode
//! then keeps its mode for as long as the mount stands.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::modes::Mode;
use super::names::LIFETIME;
use super::traits::{BackingFile, OpenContent};

/// In front of the records: how many entries the namespace had.
const HEADER_BYTES: u64 = 8;
/// Handle, inode, and the kernel's number of the backing file plus 1; all 0 where it is free.
const RECORD_BYTES: usize = 24;

/// One open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The number that the kernel has for it.
    pub handle: u64,
    /// Its inode.
    pub ino: u64,
    /// How the bytes come.
    pub mode: Mode,
}

/// The file of records.
pub struct Inherited {
    file: File,
    state: Mutex<State>,
    /// The contents of inodes that the kernel reads by itself for who opened them with the process
    /// before: open with us, too, for as long.
    held: Mutex<HashMap<u64, Arc<dyn OpenContent>>>,
    /// When we came after another process, if we did.
    followed: Option<Instant>,
}

#[derive(Default)]
struct State {
    slots: HashMap<u64, u64>,
    free: Vec<u64>,
    end: u64,
    /// Those of the process before, which has gone, that were not used by this one yet.
    before: HashMap<u64, Open>,
}

impl Inherited {
    /// Reads what the process before has left.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn read(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let bytes = length.saturating_sub(HEADER_BYTES);
        let mut records = vec![0; usize::try_from(bytes).unwrap_or(0)];
        file.read_exact_at(&mut records, HEADER_BYTES)?;
        let mut state = State::default();
        for (slot, record) in records.chunks_exact(RECORD_BYTES).enumerate() {
            let slot = slot as u64;
            match decode(record) {
                Some(open) => {
                    state.slots.insert(open.handle, slot);
                    state.before.insert(open.handle, open);
                }
                None => state.free.push(slot),
            }
            state.end = slot + 1;
        }
        let (state, held) = (Mutex::new(state), Mutex::default());
        Ok(Self {
            file,
            state,
            held,
            followed: (length > 0).then(Instant::now),
        })
    }

    /// Whether the kernel may still believe what the process before told it of names.
    pub fn is_believed(&self) -> bool {
        self.followed
            .is_some_and(|since| since.elapsed() < LIFETIME)
    }

    /// Keeps a content open until nobody has the inode open any more.
    pub fn hold(&self, ino: u64, content: Arc<dyn OpenContent>) {
        self.held.lock().insert(ino, content);
    }

    /// What was kept open for an inode, to be closed, which may wait for the disk.
    pub fn let_go(&self, ino: u64) -> Option<Arc<dyn OpenContent>> {
        self.held.lock().remove(&ino)
    }

    /// All that the process before had open.
    pub fn before(&self) -> Vec<Open> {
        self.state.lock().before.values().copied().collect()
    }

    /// What the process before had open under this number, once.
    pub fn take_before(&self, handle: u64) -> Option<Open> {
        self.state.lock().before.remove(&handle)
    }

    /// Writes an open down. Failure costs the next process that handle, and us nothing.
    pub fn note(&self, open: Open) {
        let mut state = self.state.lock();
        let slot = state.free.pop().unwrap_or_else(|| {
            state.end += 1;
            state.end - 1
        });
        state.slots.insert(open.handle, slot);
        let _lost = self.file.write_all_at(&encode(open), place(slot));
    }

    /// It is closed.
    pub fn forget(&self, handle: u64) {
        let mut state = self.state.lock();
        if let Some(slot) = state.slots.remove(&handle) {
            let _stays = self.file.write_all_at(&[0; RECORD_BYTES], place(slot));
            state.free.push(slot);
        }
    }

    /// How many entries the process before listed last; 0 for the first one.
    pub fn entries(&self) -> u64 {
        let mut bytes = [0; HEADER_BYTES as usize];
        match self.file.read_exact_at(&mut bytes, 0) {
            Ok(()) => u64::from_ne_bytes(bytes),
            Err(_) => 0,
        }
    }

    /// Notes how many entries are listed now.
    pub fn note_entries(&self, entries: u64) {
        let _lost = self.file.write_all_at(&entries.to_ne_bytes(), 0);
    }
}

fn place(slot: u64) -> u64 {
    HEADER_BYTES + slot * RECORD_BYTES as u64
}

fn encode(open: Open) -> [u8; RECORD_BYTES] {
    let backing = match open.mode {
        Mode::Asked => 0,
        Mode::Backed(BackingFile(number)) => u64::from(number) + 1,
    };
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&open.handle.to_ne_bytes());
    record[8..16].copy_from_slice(&open.ino.to_ne_bytes());
    record[16..].copy_from_slice(&backing.to_ne_bytes());
    record
}

fn decode(record: &[u8]) -> Option<Open> {
    let number = |at: usize| Some(u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?));
    let (handle, ino, backing) = (number(0)?, number(8)?, number(16)?);
    let mode = match backing.checked_sub(1) {
        None => Mode::Asked,
        Some(number) => Mode::Backed(BackingFile(u32::try_from(number).ok()?)),
    };
    (handle != 0).then_some(Open { handle, ino, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(handle: u64, mode: Mode) -> Open {
        let ino = handle * 10;
        Open { handle, ino, mode }
    }

    #[test]
    fn the_next_process_finds_what_is_open_and_nothing_that_was_closed() {
        let file = tempfile::tempfile().unwrap();
        let ours = Inherited::read(file.try_clone().unwrap()).unwrap();
        assert_eq!((ours.before(), ours.entries()), (vec![], 0));
        assert!(!ours.is_believed(), "there was none before");
        let (plain, backed) = (open(7, Mode::Asked), open(8, Mode::Backed(BackingFile(0))));
        for open in [plain, backed, open(9, Mode::Asked)] {
            ours.note(open);
        }
        ours.forget(7);
        ours.forget(7);
        ours.note(open(11, Mode::Asked));
        ours.note_entries(5);

        let next = Inherited::read(file.try_clone().unwrap()).unwrap();
        let mut found: Vec<u64> = next.before().iter().map(|open| open.handle).collect();
        found.sort_unstable();
        assert_eq!((found, next.entries()), (vec![8, 9, 11], 5));
        assert!(next.is_believed());
        assert_eq!(next.take_before(8), Some(backed));
        assert_eq!(next.take_before(8), None, "once");
        next.forget(8);
        next.forget(9);
        next.note(open(20, Mode::Asked));
        let last = Inherited::read(file).unwrap();
        let mut found: Vec<u64> = last.before().iter().map(|open| open.handle).collect();
        found.sort_unstable();
        assert_eq!(found, [11, 20]);
        let length = last.file.metadata().unwrap().len();
        assert_eq!(length, place(3), "free places are used again");
    }
}
