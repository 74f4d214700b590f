//! The files that a legacy peer has beside the content in memory.

use std::sync::Arc;

use p2pfs_fs::{LaterReply, LegacyFile, OpenContent};
use p2pfs_types::digest::ContentHash;

use super::super::process::PATIENCE;
use super::{MTIME, Memory, Open, State};

pub(super) type LegacyOpen = LaterReply<(Arc<dyn OpenContent>, u64)>;

/// What it has, and who waits for it.
#[derive(Default)]
pub(super) struct LegacyPeer {
    names: Vec<Box<[u8]>>,
    pub opens: Vec<LegacyOpen>,
}

impl Memory {
    /// A legacy peer has a file of this name, whose opens wait for [`Memory::answer_legacy`].
    pub(crate) fn legacy(&self, name: &str) -> ContentHash {
        let hash = ContentHash::of(name.as_bytes());
        self.state.lock().legacy.names.push(name.as_bytes().into());
        hash
    }

    /// Waits for an open of a legacy peer's file, and answers it with one of this content.
    pub(crate) fn answer_legacy(self: &Arc<Self>, hash: ContentHash) {
        let mut state = self.state.lock();
        let none = |s: &mut State| s.legacy.opens.is_empty();
        let waited = self.changed.wait_while_for(&mut state, none, PATIENCE);
        assert!(!waited.timed_out(), "nobody opens it");
        let reply = state.legacy.opens.remove(0);
        state.open += 1;
        drop(state);
        let (memory, live) = (self.clone(), None);
        reply(Ok((Arc::new(Open { memory, hash, live }), 1)));
    }

    pub(super) fn legacy_named(&self, name: &[u8]) -> Option<LegacyFile> {
        let state = self.state.lock();
        let is_there = state.legacy.names.iter().any(|known| **known == *name);
        is_there.then(|| LegacyFile {
            size_bytes: 1,
            mtime: MTIME,
            cached_bytes: 0,
            holder: "peer".to_owned(),
        })
    }
}
