//! The files that a peer pushes over one connection. [`Receiving`] assigns the received bytes to
//! files, checks each file against its announcement, and stores it or discards it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;

use super::machine::MeshOffence;
use crate::wire::mesh::{FileEnd, FileStart};
use p2pfs_node::PushStage;
use p2pfs_types::bucket::TokenBucket;
use p2pfs_types::file_name::received_name;

/// Maximum files in flight on one connection.
pub const OPEN_MAX: usize = 8;
/// Maximum burst of files that a peer may start on one connection.
const BEGUN_BURST: u32 = 1024;
/// Maximum sustained files per second; see [`BEGUN_BURST`].
const BEGUN_PER_S: u32 = 100;
/// How long no data of a file may arrive before the file is abandoned. Its end message may never
/// arrive.
pub const FILE_PATIENCE: Duration = Duration::from_secs(120);

/// The folder of received files. Its methods may block.
pub trait FileStore {
    /// A file in transfer. Dropping it discards its bytes.
    type Part;

    /// Begins a file.
    ///
    /// # Errors
    /// The reason why it is not accepted, which is no fault of its sender.
    fn begin(&self, size_bytes: u64) -> Result<Self::Part, String>;

    /// Writes bytes of a file.
    ///
    /// # Errors
    /// The reason why the file cannot be completed.
    fn write(&self, part: &Self::Part, offset: u64, bytes: &[u8]) -> Result<(), String>;

    /// Publishes a complete file and returns the name that it got.
    ///
    /// # Errors
    /// The reason why the file is discarded.
    fn publish(&self, part: Self::Part, name: &[u8]) -> Result<Vec<u8>, String>;

    /// Records the progress of a file.
    fn report(&self, name: &[u8], size_bytes: u64, stage: PushStage);
}

/// A received message about files, or the passage of time.
#[derive(Debug)]
pub enum FileStep {
    /// The start of a file.
    Start(FileStart),
    /// The following pieces belong to the file with this name.
    Chunk(Vec<u8>),
    /// A piece.
    Part(Bytes),
    /// The end of a file.
    End(FileEnd),
    /// Time has passed.
    Tick,
}

struct IncomingFile<P> {
    start: FileStart,
    /// Name under which to store the file if that name is free. It is a single path component,
    /// whatever the peer sent.
    name: Vec<u8>,
    received_bytes: u64,
    hash: Context,
    heard_at: Instant,
    part: P,
}

/// The files in flight on one connection. Dropping this discards them.
pub struct Receiving<S: FileStore> {
    store: S,
    /// By the name that the peer sent.
    files: BTreeMap<Vec<u8>, IncomingFile<S::Part>>,
    /// Name of the file that the next pieces belong to. They are skipped if it is not in flight.
    current: Vec<u8>,
    begun: TokenBucket,
}

impl<S: FileStore> Receiving<S> {
    /// Creates a state without files.
    pub fn new(now: Instant, store: S) -> Self {
        Self {
            store,
            files: BTreeMap::new(),
            current: Vec::new(),
            begun: TokenBucket::per_second(BEGUN_PER_S, BEGUN_BURST, now),
        }
    }

    /// Performs one step. Returns the offence if the sender commits one. Blocks for writing and
    /// hashing.
    pub fn perform(&mut self, now: Instant, step: FileStep) -> Option<MeshOffence> {
        let done = match step {
            FileStep::Start(start) => self.start(now, start),
            FileStep::Chunk(name) => {
                self.current = name;
                self.part(now, &[])
            }
            FileStep::Part(bytes) => self.part(now, &bytes),
            FileStep::End(end) => self.end(&end),
            FileStep::Tick => {
                self.expire(now);
                Ok(())
            }
        };
        done.err()
    }

    fn start(&mut self, now: Instant, start: FileStart) -> Result<(), MeshOffence> {
        let size_bytes = start.size_bytes;
        let name = received_name(&start.name);
        if name.is_some() {
            self.fail(&start.name, "it was begun again");
        }
        let accepted = name.ok_or(MeshOffence::BadFile).and_then(|name| {
            let is_room = self.files.len() < OPEN_MAX && self.begun.take(1, now);
            is_room.then_some(name).ok_or(MeshOffence::ManyFiles)
        });
        let name = accepted.inspect_err(|offence| {
            let stage = PushStage::Failed(offence.to_string());
            self.store.report(&start.name, size_bytes, stage);
        })?;
        // A refusal is not an offence: the sender cannot know whether the file is accepted.
        match self.store.begin(size_bytes) {
            Err(why) => self.store.report(&name, size_bytes, PushStage::Failed(why)),
            Ok(part) => {
                self.store.report(&name, size_bytes, PushStage::Started);
                let file = IncomingFile {
                    name,
                    received_bytes: 0,
                    hash: Context::new(&SHA256),
                    heard_at: now,
                    part,
                    start,
                };
                self.files.insert(file.start.name.clone(), file);
            }
        }
        Ok(())
    }

    fn part(&mut self, now: Instant, bytes: &[u8]) -> Result<(), MeshOffence> {
        let Some(file) = self.files.get_mut(&self.current) else {
            return Ok(());
        };
        let offset = file.received_bytes;
        file.received_bytes += bytes.len() as u64;
        file.heard_at = now;
        let name = self.current.clone();
        if file.received_bytes > file.start.size_bytes {
            return self.refuse(&name, MeshOffence::WrongSize);
        }
        file.hash.update(bytes);
        if let Err(why) = self.store.write(&file.part, offset, bytes) {
            self.fail(&name, &why);
        }
        Ok(())
    }

    fn end(&mut self, end: &FileEnd) -> Result<(), MeshOffence> {
        self.current.clear();
        let Some(file) = self.files.get(&end.name) else {
            return Ok(());
        };
        let sha256 = file.start.sha256;
        if file.received_bytes != file.start.size_bytes {
            return self.refuse(&end.name, MeshOffence::WrongSize);
        }
        let is_right = file.hash.clone().finish().as_ref() == sha256;
        if !is_right || end.sha256.is_some_and(|again| again != sha256) {
            return self.refuse(&end.name, MeshOffence::WrongHash);
        }
        if let Some(file) = self.files.remove(&end.name) {
            let (name, stage) = match self.store.publish(file.part, &file.name) {
                Ok(name) => (name, PushStage::Done),
                Err(why) => (file.name, PushStage::Failed(why)),
            };
            self.store.report(&name, file.start.size_bytes, stage);
        }
        Ok(())
    }

    /// Abandons the files without data for [`FILE_PATIENCE`].
    fn expire(&mut self, now: Instant) {
        let is_old =
            |file: &IncomingFile<_>| now.saturating_duration_since(file.heard_at) > FILE_PATIENCE;
        let old = self.files.iter().filter(|(_, file)| is_old(file));
        let old: Vec<Vec<u8>> = old.map(|(name, _)| name.clone()).collect();
        for name in old {
            self.fail(&name, "its end did not come");
        }
    }

    fn refuse(&mut self, name: &[u8], offence: MeshOffence) -> Result<(), MeshOffence> {
        self.fail(name, &format!("its sender {offence}"));
        Err(offence)
    }

    /// Abandons a file, if it is in flight. Its further data is skipped.
    fn fail(&mut self, name: &[u8], why: &str) {
        if let Some(file) = self.files.remove(name) {
            let stage = PushStage::Failed(why.to_owned());
            self.store.report(&file.name, file.start.size_bytes, stage);
        }
    }
}

impl<S: FileStore> Drop for Receiving<S> {
    fn drop(&mut self) {
        while let Some(name) = self.files.keys().next().cloned() {
            self.fail(&name, "the connection ended before the file did");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use aws_lc_rs::digest::digest;

    use super::*;

    /// A store in memory.
    #[derive(Clone, Default)]
    struct Memory(Rc<RefCell<Outcomes>>);

    #[derive(Default)]
    struct Outcomes {
        published: Vec<(String, Vec<u8>)>,
        failures: Vec<String>,
    }

    impl FileStore for Memory {
        type Part = RefCell<Vec<u8>>;

        fn begin(&self, size_bytes: u64) -> Result<Self::Part, String> {
            let has_room = size_bytes < 1 << 20;
            let no_room = || "no room".to_owned();
            has_room.then(RefCell::default).ok_or_else(no_room)
        }

        fn write(&self, part: &Self::Part, offset: u64, bytes: &[u8]) -> Result<(), String> {
            assert_eq!(offset as usize, part.borrow().len());
            part.borrow_mut().extend_from_slice(bytes);
            Ok(())
        }

        fn publish(&self, part: Self::Part, name: &[u8]) -> Result<Vec<u8>, String> {
            let text = String::from_utf8(name.to_vec()).unwrap();
            self.0
                .borrow_mut()
                .published
                .push((text, part.into_inner()));
            Ok(name.to_vec())
        }

        fn report(&self, _: &[u8], _: u64, stage: PushStage) {
            if let PushStage::Failed(why) = stage {
                self.0.borrow_mut().failures.push(why);
            }
        }
    }

    /// One connection, with its virtual time.
    struct Sender {
        receiving: Receiving<Memory>,
        store: Memory,
        now: Instant,
    }

    impl Sender {
        fn new() -> Self {
            let (store, now) = (Memory::default(), Instant::now());
            Self {
                receiving: Receiving::new(now, store.clone()),
                store,
                now,
            }
        }

        fn step(&mut self, step: FileStep) -> Option<MeshOffence> {
            self.receiving.perform(self.now, step)
        }

        /// Starts a file with the hash of these bytes.
        fn start(&mut self, name: &str, bytes: &[u8]) -> Option<MeshOffence> {
            self.step(FileStep::Start(FileStart {
                name: name.into(),
                size_bytes: bytes.len() as u64,
                sha256: digest(&SHA256, bytes).as_ref().try_into().unwrap(),
            }))
        }

        fn chunk(&mut self, name: &str, bytes: &'static [u8]) -> Option<MeshOffence> {
            let began = self.step(FileStep::Chunk(name.into()));
            began.or(self.step(FileStep::Part(Bytes::from_static(bytes))))
        }

        fn end(&mut self, name: &str, sha256: Option<[u8; 32]>) -> Option<MeshOffence> {
            let name = name.into();
            self.step(FileStep::End(FileEnd { name, sha256 }))
        }

        fn published(&self) -> Vec<(String, Vec<u8>)> {
            self.store.0.borrow().published.clone()
        }

        fn failures(&self) -> Vec<String> {
            self.store.0.borrow().failures.clone()
        }
    }

    #[test]
    fn a_file_in_pieces_is_complete_when_its_hash_matches() {
        let mut sender = Sender::new();
        assert_eq!(sender.start("../a.txt", b"hello"), None);
        assert_eq!(sender.chunk("../a.txt", b"he"), None);
        assert_eq!(sender.chunk("../a.txt", b"llo"), None);
        assert_eq!(sender.published(), []);
        assert_eq!(sender.end("../a.txt", None), None);
        assert_eq!(sender.end("../a.txt", None), None, "it has ended");
        sender.start("e", b"");
        assert_eq!(sender.end("e", None), None);
        let (a, e) = (
            ("a.txt".to_owned(), b"hello".to_vec()),
            ("e".to_owned(), vec![]),
        );
        assert_eq!(sender.published(), [a, e]);
    }

    #[test]
    fn two_concurrent_files_each_get_their_own_bytes() {
        let mut sender = Sender::new();
        sender.start("a", b"aA");
        sender.start("b", b"bB");
        for (name, bytes) in [("a", b"a"), ("b", b"b"), ("a", b"A"), ("b", b"B")] {
            assert_eq!(sender.chunk(name, bytes), None);
        }
        assert_eq!((sender.end("a", None), sender.end("b", None)), (None, None));
        let files = [("a", b"aA"), ("b", b"bB")];
        let files = files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec()));
        assert_eq!(sender.published(), files);
    }

    #[test]
    fn wrong_missing_and_surplus_bytes_are_offences() {
        let push = |sent: &'static [u8]| {
            let mut sender = Sender::new();
            sender.start("a", b"hello");
            let offence = sender.chunk("a", sent).or_else(|| sender.end("a", None));
            let (published, failures) = (sender.published().len(), sender.failures().len());
            assert_eq!(published + failures, 1, "the file is stored or reported");
            assert_eq!(published == 0, offence.is_some());
            offence
        };
        assert_eq!(push(b"hellO"), Some(MeshOffence::WrongHash));
        assert_eq!(push(b"hell"), Some(MeshOffence::WrongSize));
        assert_eq!(push(b"hello!"), Some(MeshOffence::WrongSize));
        assert_eq!(push(b"hello"), None);
    }

    #[test]
    fn a_second_hash_must_equal_the_first_when_present() {
        let mut sender = Sender::new();
        sender.start("a", b"");
        let offence = sender.end("a", Some([0; 32]));
        assert_eq!(offence, Some(MeshOffence::WrongHash));
        assert_eq!(sender.published(), []);
    }

    #[test]
    fn pieces_and_ends_of_unknown_files_are_ignored() {
        let mut sender = Sender::new();
        let piece = || FileStep::Part(Bytes::from_static(b"x"));
        assert_eq!(sender.step(piece()), None);
        assert_eq!(sender.chunk("nothing", b"x"), None);
        assert_eq!(sender.end("nothing", None), None);
        assert_eq!(sender.step(piece()), None);
        assert_eq!((sender.published(), sender.failures()), (vec![], vec![]));
    }

    #[test]
    fn a_file_that_the_store_refuses_is_reported_and_no_offence() {
        let mut sender = Sender::new();
        let large = FileStart {
            name: b"a".to_vec(),
            size_bytes: 1 << 20,
            sha256: [0; 32],
        };
        assert_eq!(sender.step(FileStep::Start(large)), None);
        assert_eq!(sender.chunk("a", b"x"), None);
        assert_eq!(sender.end("a", None), None);
        assert_eq!(sender.failures(), ["no room"]);
    }

    #[test]
    fn a_flood_of_files_is_refused_and_bounded_in_memory() {
        let mut sender = Sender::new();
        let taken = (0..10_000).filter(|n| sender.start(&format!("{n}"), b"x").is_none());
        assert_eq!(taken.count(), OPEN_MAX);
        let mut sender = Sender::new();
        let taken = (0..10_000).filter(|n| {
            let name = format!("{n}");
            sender.start(&name, b"").is_none() && sender.end(&name, None).is_none()
        });
        assert_eq!(taken.count(), BEGUN_BURST as usize);
    }

    #[test]
    fn a_file_without_its_end_is_dropped_and_a_restarted_one_replaces_it() {
        let mut sender = Sender::new();
        sender.start("a", b"x");
        sender.start("a", b"x");
        assert_eq!(sender.failures(), ["it was begun again"]);
        sender.now += FILE_PATIENCE;
        sender.step(FileStep::Tick);
        assert_eq!(sender.failures().len(), 1);
        sender.now += Duration::from_secs(1);
        sender.step(FileStep::Tick);
        assert_eq!(sender.failures()[1..], ["its end did not come"]);
        sender.start("b", b"x");
        let store = sender.store.clone();
        drop(sender);
        assert_eq!(
            store.0.borrow().failures.len(),
            3,
            "a cut-off file is reported"
        );
    }
}
