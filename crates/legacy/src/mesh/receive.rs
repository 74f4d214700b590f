//! The files that a peer pushes over one connection. [`Receiving`] assigns the received bytes to
//! files, and checks that each file matches its announcement.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};

use super::offence::MeshOffence;
use crate::wire::mesh::{FileEnd, FileStart, Sha256};
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

/// Number of a file in flight among those of one connection; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// A file that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Number of the file.
    pub id: FileId,
    /// Name under which to store the file if that name is free. It is a single path component,
    /// whatever the peer sent.
    pub name: Vec<u8>,
    /// Announced size.
    pub size_bytes: u64,
}

/// Why a file is rejected or abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Number of the file in flight that is abandoned, if there is one.
    pub id: Option<FileId>,
    /// Offence of the sender.
    pub offence: MeshOffence,
}

struct IncomingFile {
    id: FileId,
    size_bytes: u64,
    sha256: Sha256,
    received_bytes: u64,
    hash: Context,
    heard_at: Instant,
}

/// The files in flight on one connection, without their bytes.
pub struct Receiving {
    files: BTreeMap<Vec<u8>, IncomingFile>,
    /// Name of the file that the next pieces belong to; `None` if they are skipped.
    current: Option<Vec<u8>>,
    begun: TokenBucket,
    next_id: u64,
}

impl Receiving {
    /// Creates a state without files.
    pub fn new(now: Instant) -> Self {
        Self {
            files: BTreeMap::new(),
            current: None,
            begun: TokenBucket::per_second(BEGUN_PER_S, BEGUN_BURST, now),
            next_id: 0,
        }
    }

    /// Starts a file. A file in flight with the same name is abandoned; its number is the second
    /// part of the result.
    ///
    /// # Errors
    /// [`Refused`]; the data of the file is skipped.
    pub fn start(
        &mut self,
        now: Instant,
        start: FileStart,
    ) -> Result<(Begun, Option<FileId>), Refused> {
        let refused = |offence| Refused { id: None, offence };
        let name = received_name(&start.name).ok_or(refused(MeshOffence::BadFile))?;
        let replaced = self.files.remove(&start.name).map(|file| file.id);
        if self.files.len() >= OPEN_MAX || !self.begun.take(1, now) {
            return Err(Refused {
                id: replaced,
                offence: MeshOffence::ManyFiles,
            });
        }
        let id = FileId(self.next_id);
        self.next_id += 1;
        let coming = IncomingFile {
            id,
            size_bytes: start.size_bytes,
            sha256: start.sha256,
            received_bytes: 0,
            hash: Context::new(&SHA256),
            heard_at: now,
        };
        self.files.insert(start.name, coming);
        let begun = Begun {
            id,
            name,
            size_bytes: start.size_bytes,
        };
        Ok((begun, replaced))
    }

    /// Assigns the following pieces to the file with this name.
    pub fn chunk(&mut self, now: Instant, name: Vec<u8>) {
        self.current = self.files.get_mut(&name).map(|file| {
            file.heard_at = now;
            name
        });
    }

    /// Processes a piece. Returns the file to which it belongs and its offset in the file, or
    /// `None` if the piece is skipped.
    ///
    /// # Errors
    /// [`Refused`] if the file is longer than announced; the file is then abandoned.
    pub fn part(&mut self, now: Instant, bytes: &[u8]) -> Result<Option<(FileId, u64)>, Refused> {
        let Some(name) = &self.current else {
            return Ok(None);
        };
        let Some(file) = self.files.get_mut(name) else {
            return Ok(None);
        };
        let offset = file.received_bytes;
        file.received_bytes += bytes.len() as u64;
        file.heard_at = now;
        if file.received_bytes > file.size_bytes {
            let id = Some(file.id);
            self.files.remove(name);
            self.current = None;
            let offence = MeshOffence::WrongSize;
            return Err(Refused { id, offence });
        }
        file.hash.update(bytes);
        Ok(Some((file.id, offset)))
    }

    /// Ends a file. Returns its number, or `None` if no file with this name was in flight.
    ///
    /// # Errors
    /// [`Refused`] if the file does not match its announcement.
    pub fn end(&mut self, end: &FileEnd) -> Result<Option<FileId>, Refused> {
        let Some(file) = self.files.remove(&end.name) else {
            return Ok(None);
        };
        self.current = None;
        let refused = |offence| {
            Err(Refused {
                id: Some(file.id),
                offence,
            })
        };
        if file.received_bytes != file.size_bytes {
            return refused(MeshOffence::WrongSize);
        }
        let hash = file.hash.finish();
        let is_announced = hash.as_ref() == file.sha256;
        match end.sha256 {
            Some(again) if again != file.sha256 => refused(MeshOffence::WrongHash),
            _ if !is_announced => refused(MeshOffence::WrongHash),
            _ => Ok(Some(file.id)),
        }
    }

    /// Abandons a file for a reason of this node. Its further data is skipped.
    pub fn forget(&mut self, id: FileId) {
        self.files.retain(|_, file| file.id != id);
    }

    /// Abandons and returns the files without data for [`FILE_PATIENCE`].
    pub fn expire(&mut self, now: Instant) -> Vec<FileId> {
        let is_old =
            |file: &IncomingFile| now.saturating_duration_since(file.heard_at) > FILE_PATIENCE;
        let old = self.files.values().filter(|file| is_old(file));
        let old: Vec<FileId> = old.map(|file| file.id).collect();
        self.files.retain(|_, file| !old.contains(&file.id));
        old
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::digest;

    use super::*;

    fn sha256(bytes: &[u8]) -> Sha256 {
        digest(&SHA256, bytes).as_ref().try_into().unwrap()
    }

    fn start(name: &str, bytes: &[u8]) -> FileStart {
        FileStart {
            name: name.as_bytes().to_vec(),
            size_bytes: bytes.len() as u64,
            sha256: sha256(bytes),
        }
    }

    fn end(name: &str) -> FileEnd {
        FileEnd {
            name: name.as_bytes().to_vec(),
            sha256: None,
        }
    }

    fn ended(receiving: &mut Receiving, name: &str) -> Result<Option<FileId>, MeshOffence> {
        receiving.end(&end(name)).map_err(|refused| refused.offence)
    }

    #[test]
    fn a_file_in_pieces_is_complete_when_its_hash_matches() {
        let now = Instant::now();
        let mut receiving = Receiving::new(now);
        let (begun, replaced) = receiving.start(now, start("../a.txt", b"hello")).unwrap();
        assert_eq!((&begun.name[..], replaced), (&b"a.txt"[..], None));
        receiving.chunk(now, b"../a.txt".to_vec());
        assert_eq!(receiving.part(now, b"he"), Ok(Some((begun.id, 0))));
        assert_eq!(receiving.part(now, b"llo"), Ok(Some((begun.id, 2))));
        assert_eq!(ended(&mut receiving, "../a.txt"), Ok(Some(begun.id)));
        assert_eq!(ended(&mut receiving, "../a.txt"), Ok(None));
        let (empty, _) = receiving.start(now, start("e", b"")).unwrap();
        assert_eq!(ended(&mut receiving, "e"), Ok(Some(empty.id)));
    }

    #[test]
    fn two_concurrent_files_each_get_their_own_bytes() {
        let now = Instant::now();
        let mut receiving = Receiving::new(now);
        let a = receiving.start(now, start("a", b"aa")).unwrap().0.id;
        let b = receiving.start(now, start("b", b"bb")).unwrap().0.id;
        for at in 0..2 {
            for (name, id) in [("a", a), ("b", b)] {
                receiving.chunk(now, name.into());
                let part = receiving.part(now, name.as_bytes());
                assert_eq!(part, Ok(Some((id, at))));
            }
        }
        assert_eq!(ended(&mut receiving, "a"), Ok(Some(a)));
        assert_eq!(ended(&mut receiving, "b"), Ok(Some(b)));
    }

    #[test]
    fn wrong_missing_and_surplus_bytes_are_offences() {
        let now = Instant::now();
        let mut receiving = Receiving::new(now);
        let mut push = |sent: &[u8]| {
            receiving.start(now, start("a", b"hello")).unwrap();
            receiving.chunk(now, b"a".to_vec());
            receiving.part(now, sent)?;
            receiving.end(&end("a"))
        };
        let offence = |outcome: Result<_, Refused>| outcome.unwrap_err().offence;
        assert_eq!(offence(push(b"hellO")), MeshOffence::WrongHash);
        assert_eq!(offence(push(b"hell")), MeshOffence::WrongSize);
        assert_eq!(offence(push(b"hello!")), MeshOffence::WrongSize);
        assert!(push(b"hello").is_ok());
    }

    #[test]
    fn a_second_hash_must_equal_the_first_when_present() {
        let now = Instant::now();
        let mut receiving = Receiving::new(now);
        receiving.start(now, start("a", b"")).unwrap();
        let other = FileEnd {
            name: b"a".to_vec(),
            sha256: Some([0; 32]),
        };
        assert_eq!(
            receiving.end(&other).unwrap_err().offence,
            MeshOffence::WrongHash
        );
    }

    #[test]
    fn pieces_and_ends_of_unknown_files_are_ignored() {
        let now = Instant::now();
        let mut receiving = Receiving::new(now);
        assert_eq!(receiving.part(now, b"x"), Ok(None));
        receiving.chunk(now, b"nothing".to_vec());
        assert_eq!(receiving.part(now, b"x"), Ok(None));
        assert_eq!(ended(&mut receiving, "nothing"), Ok(None));
    }

    #[test]
    fn a_flood_of_files_is_refused_and_bounded_in_memory() {
        let now = Instant::now();
        let mut receiving = Receiving::new(now);
        let begin = |n| start(&format!("{n}"), b"x");
        let taken = (0..10_000).filter(|n| receiving.start(now, begin(*n)).is_ok());
        assert_eq!(taken.count(), OPEN_MAX);
        let mut receiving = Receiving::new(now);
        let taken = (0..10_000).filter(|n| {
            let is_taken = receiving.start(now, start(&format!("{n}"), b"")).is_ok();
            is_taken && ended(&mut receiving, &format!("{n}")).is_ok()
        });
        assert_eq!(taken.count(), BEGUN_BURST as usize);
    }

    #[test]
    fn a_file_without_its_end_is_dropped_and_a_restarted_one_replaces_it() {
        let now = Instant::now();
        let mut receiving = Receiving::new(now);
        let first = receiving.start(now, start("a", b"x")).unwrap().0.id;
        let (second, replaced) = receiving.start(now, start("a", b"x")).unwrap();
        assert_eq!(replaced, Some(first));
        assert_eq!(receiving.expire(now + FILE_PATIENCE), []);
        let later = now + FILE_PATIENCE + Duration::from_secs(1);
        assert_eq!(receiving.expire(later), [second.id]);
        assert_eq!(receiving.expire(later), []);
    }
}
