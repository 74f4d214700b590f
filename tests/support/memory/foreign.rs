//! Files of a foreign peer beside the contents in memory.

use std::sync::Arc;

use p2pfs_fs::{ForeignFile, ForeignFiles, FsError, LaterReply, OpenContent};
use p2pfs_types::digest::ContentHash;

use super::super::process::HANG_LIMIT;
use super::{MTIME, Memory, Open, State};

type ForeignOpen = LaterReply<(Arc<dyn OpenContent>, u64)>;

/// The names of the peer's files, and the calls that wait for it.
#[derive(Default)]
pub(super) struct ForeignPeer {
    names: Vec<Box<[u8]>>,
    opens: Vec<ForeignOpen>,
    /// Whether it may have any name.
    may_have: bool,
    lookups: Vec<LaterReply<ForeignFile>>,
}

impl Memory {
    /// Adds a file of a foreign peer. Its opens wait for [`Memory::answer_foreign`].
    pub(crate) fn add_foreign(&self, name: &str) -> ContentHash {
        let hash = ContentHash::of(name.as_bytes());
        self.state.lock().foreign.names.push(name.as_bytes().into());
        hash
    }

    /// Adds a file of a foreign peer, and answers the lookups that wait for it.
    pub(crate) fn find_foreign(&self, name: &str) -> ContentHash {
        let hash = self.add_foreign(name);
        let lookups = std::mem::take(&mut self.state.lock().foreign.lookups);
        for reply in lookups {
            reply(self.known(name.as_bytes()).ok_or(FsError::NotFound));
        }
        hash
    }

    /// Waits for an open of a foreign file, and answers it with this content.
    pub(crate) fn answer_foreign(self: &Arc<Self>, hash: ContentHash) {
        let mut state = self.state.lock();
        let none = |s: &mut State| s.foreign.opens.is_empty();
        let waited = self.changed.wait_while_for(&mut state, none, HANG_LIMIT);
        assert!(!waited.timed_out(), "no open of it arrived");
        let reply = state.foreign.opens.remove(0);
        state.open += 1;
        drop(state);
        let (memory, live) = (self.clone(), None);
        reply(Ok((Arc::new(Open { memory, hash, live }), 1)));
    }
}

impl Memory {
    /// Lets the peer be asked for each name of the root that is not listed. The calls wait for
    /// [`Memory::refuse_foreign`].
    pub(crate) fn ask_foreign(&self) {
        self.state.lock().foreign.may_have = true;
    }

    /// Returns the number of calls that wait for the peer.
    pub(crate) fn foreign_calls(&self) -> usize {
        let foreign = &self.state.lock().foreign;
        foreign.lookups.len() + foreign.opens.len()
    }

    /// Ends all calls that wait for the peer: it has none of the files.
    pub(crate) fn refuse_foreign(&self) {
        let foreign = std::mem::take(&mut self.state.lock().foreign);
        for reply in foreign.lookups {
            reply(Err(FsError::NotFound));
        }
        for reply in foreign.opens {
            reply(Err(FsError::NotFound));
        }
    }
}

impl ForeignFiles for Memory {
    fn may_have(&self, _name: &[u8]) -> bool {
        self.state.lock().foreign.may_have
    }

    fn known(&self, name: &[u8]) -> Option<ForeignFile> {
        let state = self.state.lock();
        let is_there = state.foreign.names.iter().any(|known| **known == *name);
        is_there.then(|| ForeignFile {
            size_bytes: 1,
            mtime: MTIME,
            cached_bytes: 0,
            holder: "peer".to_owned(),
        })
    }

    fn names(&self) -> Vec<Box<[u8]>> {
        Vec::new()
    }

    fn find(&self, _name: &[u8], _uid: u32, reply: LaterReply<ForeignFile>) {
        self.state.lock().foreign.lookups.push(reply);
    }

    fn open(&self, _name: &[u8], _uid: u32, reply: ForeignOpen) {
        self.state.lock().foreign.opens.push(reply);
        self.changed.notify_all();
    }
}
