//! Files of a foreign peer beside the contents in memory.

use std::sync::Arc;

use p2pfs_fs::{ForeignFile, ForeignFiles, FsError, LaterReply, OpenContent};
use p2pfs_types::digest::ContentHash;

use super::super::process::PATIENCE;
use super::{MTIME, Memory, Open, State};

type ForeignOpen = LaterReply<(Arc<dyn OpenContent>, u64)>;

/// The names of the peer's files, and the opens that wait for it.
#[derive(Default)]
pub(super) struct ForeignPeer {
    names: Vec<Box<[u8]>>,
    opens: Vec<ForeignOpen>,
}

impl Memory {
    /// Adds a file of a foreign peer. Its opens wait for [`Memory::answer_foreign`].
    pub(crate) fn add_foreign(&self, name: &str) -> ContentHash {
        let hash = ContentHash::of(name.as_bytes());
        self.state.lock().foreign.names.push(name.as_bytes().into());
        hash
    }

    /// Waits for an open of a foreign file, and answers it with this content.
    pub(crate) fn answer_foreign(self: &Arc<Self>, hash: ContentHash) {
        let mut state = self.state.lock();
        let none = |s: &mut State| s.foreign.opens.is_empty();
        let waited = self.changed.wait_while_for(&mut state, none, PATIENCE);
        assert!(!waited.timed_out(), "no open of it arrived");
        let reply = state.foreign.opens.remove(0);
        state.open += 1;
        drop(state);
        let (memory, live) = (self.clone(), None);
        reply(Ok((Arc::new(Open { memory, hash, live }), 1)));
    }
}

impl ForeignFiles for Memory {
    fn may_have(&self, _name: &[u8]) -> bool {
        false
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

    fn find(&self, _name: &[u8], reply: LaterReply<ForeignFile>) {
        reply(Err(FsError::NotFound));
    }

    fn open(&self, _name: &[u8], reply: ForeignOpen) {
        self.state.lock().foreign.opens.push(reply);
        self.changed.notify_all();
    }
}
