//! Tests of the catalogue as a whole.

mod aliases;
mod budgets;
mod changes;
mod conflicts;
mod decisions;
mod forged;
mod forgotten;
mod keepers;
mod limits;
mod liveness;
mod model;
mod owners;
mod peers;
mod persistence;
mod private;
mod pulls;
mod readers;
mod replacing;
mod turns;
mod unserved;
mod worlds;

use bytes::Bytes;

use super::{
    Applied, Catalogue, Found, HeadOutcome, LogPart, NameHandle, Pull, Rule, View, sample,
};
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, SignedHead, Timestamp};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

pub(super) const SHARE: ShareIndex = ShareIndex(0);

impl Catalogue {
    /// Records that everything in a share is gone.
    fn remove_share(&mut self, share: ShareIndex) {
        let paths: Vec<SharedPath> = self.own().entries(share).map(|(path, _)| path).collect();
        paths
            .iter()
            .for_each(|path| assert!(self.own_mut().remove(share, path)));
    }

    /// Returns the number of versions and directory times that wait for their time.
    fn early_count(&self) -> usize {
        self.logs.merge.settling.early.rows.len()
    }
}

pub(super) fn id(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

pub(super) fn node(number: u8, name: &str) -> Catalogue {
    Catalogue::new(id(number), NodeName::new(name).unwrap())
}

pub(super) fn path(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).unwrap()
}

pub(super) fn time(seconds: i64) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: 0,
    }
}

/// Creates the entry of a file with this text as its content.
pub(super) fn file(content: &str, seconds: i64) -> Entry {
    Entry {
        kind: Kind::File {
            hash: ContentHash::of(content.as_bytes()),
            size_bytes: content.len() as u64,
            executable: false,
        },
        mtime: time(seconds),
        version_time: time(seconds),
        sent_by: None,
        replaces: Vec::new(),
    }
}

pub(super) fn directory(seconds: i64) -> Entry {
    sample::directory(time(seconds))
}

pub(super) fn link(target: &'static str, seconds: i64) -> Entry {
    Entry {
        kind: Kind::Symlink {
            target: Bytes::from_static(target.as_bytes()),
        },
        mtime: time(seconds),
        version_time: time(seconds),
        sent_by: None,
        replaces: Vec::new(),
    }
}

pub(super) fn put(node: &mut Catalogue, name: &str, entry: Entry) {
    assert!(node.own_mut().put(SHARE, &path(name), entry).unwrap());
}

/// Signs the own head. The signature is not checked in these tests.
pub(super) fn signed(node: &mut Catalogue) -> SignedHead {
    let signed = SignedHead {
        head: node.own().head(),
        signature: [[7; 32]; 2],
    };
    assert!(node.own_mut().sign(signed.clone()));
    assert!(!node.own().needs_signature());
    signed
}

pub(super) fn pull_of(outcome: HeadOutcome) -> Pull {
    match outcome {
        HeadOutcome::Pull(pull) => pull,
        other => panic!("expected a pull, got {other:?}"),
    }
}

/// Returns the part that answers a pull.
pub(super) fn part(from: &Catalogue, pull: Pull, limit: usize) -> LogPart {
    from.logs()
        .part_within(&pull.author, pull.epoch, pull.after, limit)
        .expect("it has the log")
}

/// Transfers a node's log from one node to another, in parts of a few records.
pub(super) fn bring(author: &NodeId, from: &Catalogue, to: &mut Catalogue, limit: usize) {
    let head = from.logs().head_of(author).expect("it has the log").clone();
    let HeadOutcome::Pull(mut pull) = to.handle_head(&head) else {
        return;
    };
    for _ in 0..10_000 {
        match to.intake().apply(*author, part(from, pull, limit)).unwrap() {
            Applied::Complete => return,
            Applied::More(next) | Applied::Compacted(next) => pull = next,
            Applied::Mismatch { retry } => pull = retry.expect("an honest log fits in the end"),
            Applied::OverBudget => return,
        }
    }
    panic!("a pull of an honest log ends");
}

/// Transfers a node's own log to another node, which regards the first as live.
pub(super) fn share(from: &mut Catalogue, to: &mut Catalogue) {
    let author = signed(from).head.author;
    to.set_live(author, true).unwrap();
    bring(&author, from, to, 4096);
}

/// Returns every listed path from the root down, including conflict names, with its object.
pub(super) fn listing(view: &View) -> Vec<(String, Found)> {
    let mut all = Vec::new();
    let mut open = vec![SharedPath::root()];
    while let Some(dir) = open.pop() {
        // Small pages also test how a listing continues.
        let mut after: Option<Box<[u8]>> = None;
        let mut names: Vec<Box<[u8]>> = Vec::new();
        loop {
            let page = view.children(&dir, after.as_deref(), 2);
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            names.extend(page.iter().map(|child| child.name.clone()));
            for child in page {
                let path = dir.join(&child.name).unwrap();
                assert_eq!(view.lookup(&path).as_ref(), Some(&child.found), "{path:?}");
                if child.found.kind == Kind::Directory {
                    open.push(path.clone());
                }
                all.push((path.to_string(), child.found));
            }
        }
        let held = view.names(&dir);
        assert!(
            held.iter()
                .map(NameHandle::as_bytes)
                .eq(names.iter().map(|name| &**name))
        );
        for name in held {
            if let NameHandle::Said(said) = &name {
                let path = dir.join(said.name()).unwrap();
                assert_eq!(view.found_of(said), view.lookup(&path), "{path:?}");
            }
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

pub(super) fn names(view: &View) -> Vec<String> {
    listing(view).into_iter().map(|(name, _)| name).collect()
}

/// Returns the rule of each version of a name, the version with the name first.
pub(super) fn rules(watcher: &mut Catalogue, name: &str) -> Vec<Rule> {
    let versions = watcher.view().versions(&path(name));
    versions.iter().map(|version| version.rule).collect()
}

/// Returns the content that a path shows.
pub(super) fn shown(view: &View, name: &str) -> Option<ContentHash> {
    match view.lookup(&path(name))?.kind {
        Kind::File { hash, .. } => Some(hash),
        _ => None,
    }
}

/// Returns the content of a file with this text.
pub(super) fn key(content: &str) -> ContentKey {
    ContentKey::new(hash(content), content.len() as u64)
}

pub(super) fn hash(content: &str) -> ContentHash {
    ContentHash::of(content.as_bytes())
}
