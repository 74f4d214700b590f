//! The catalogues of two nodes: one that mounts, and one whose files it shows.

use std::sync::Arc;

use p2pfs_catalogue::{Applied, Catalogue, Change, HeadOutcome, View};
use p2pfs_proto::wire::native::record::SignedHead;
use p2pfs_types::id::{NodeId, NodeName};

/// This node's catalogue, and that of another node called "far".
pub(super) struct Namespace {
    pub near: Catalogue,
    pub far: Catalogue,
}

impl Namespace {
    pub(super) fn new() -> Self {
        let new = |id, name| Catalogue::new(NodeId::new([id; 32]), NodeName::new(name).unwrap());
        let (mut near, far) = (new(7, "near"), new(8, "far"));
        near.set_live(NodeId::new([8; 32]), true).unwrap();
        Self { near, far }
    }

    /// Takes over the other node's entries, as a pull does.
    pub(super) fn merge(&mut self) -> (Arc<View>, Vec<Change>) {
        let head = self.far.own().head();
        let author = head.author;
        let signed = SignedHead {
            head,
            signature: [[0; 32]; 2],
        };
        assert!(self.far.own_mut().sign(signed.clone()));
        let mut next = match self.near.handle_head(&signed) {
            HeadOutcome::Pull(pull) => Some(pull),
            HeadOutcome::Known => None,
            other => panic!("{other:?}"),
        };
        while let Some(pull) = next {
            let part = self
                .far
                .logs()
                .part(&pull.author, pull.epoch, pull.after)
                .unwrap();
            next = match self.near.intake().apply(author, part).unwrap() {
                Applied::More(pull) => Some(pull),
                Applied::Complete => None,
                other => panic!("{other:?}"),
            };
        }
        while self.near.advance(usize::MAX) {}
        let view = self.near.view();
        let changes = std::iter::from_fn(|| self.near.poll_change()).collect();
        (view, changes)
    }
}
