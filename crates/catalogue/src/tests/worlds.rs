//! Random worlds. Authors record facts, and observers receive these in parts and out of order. In
//! the meantime nodes depart and return, compact or lose their logs, and observers restart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::{Owners, Portion};

pub(super) const NODES: usize = 4;
/// Two nodes have the same name, so that labels matter.
pub(super) const NAMES: [&str; NODES] = ["n0", "n1", "n0", "n2"];

/// The facts of one author, as a simple model.
#[derive(Clone, Default, Debug)]
pub(super) struct Said {
    pub(super) entries: BTreeMap<(ShareIndex, SharedPath), Entry>,
    pub(super) haves: BTreeMap<ContentHash, u64>,
    /// The deleted contents of each path, and the time of the deletion.
    pub(super) gone: BTreeMap<SharedPath, (BTreeSet<ContentHash>, Timestamp)>,
    /// The shares in which the replacements and deletions of other nodes count.
    pub(super) open: BTreeSet<ShareIndex>,
}

impl Said {
    /// Returns the time of a deletion: later than the author's former deletion, and than its own
    /// versions with the contents.
    fn time_of_deletion(
        &self,
        path: &SharedPath,
        contents: &[ContentHash],
        at: Timestamp,
    ) -> Timestamp {
        let here = self.entries.iter().filter(|((_, of), _)| of == path);
        let named = here.filter(|(_, entry)| contents.contains(&entry.kind.content()));
        let named = named.map(|(_, entry)| entry.version_time);
        let former = self.gone.get(path).map(|(_, time)| *time);
        let before = named.chain(former).map(Timestamp::next);
        before.fold(at, Timestamp::max)
    }
}

pub(super) fn node_id(author: usize) -> NodeId {
    // The ids do not have the order of the numbers.
    id(0x1a ^ (author as u8 * 0x35))
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Put {
        author: usize,
        share: u16,
        path: SharedPath,
        entry: Entry,
    },
    Remove {
        author: usize,
        nth: usize,
    },
    Delete {
        author: usize,
        path: SharedPath,
        contents: Vec<ContentHash>,
        at: Timestamp,
    },
    SetOpen {
        author: usize,
        share: u16,
        open: bool,
    },
    Have {
        author: usize,
        content: usize,
    },
    HaveNot {
        author: usize,
        content: usize,
    },
    Compact {
        author: usize,
    },
    Recover {
        author: usize,
    },
    Deliver {
        to: usize,
        author: usize,
        limit: usize,
    },
    SetLive {
        to: usize,
        author: usize,
        live: bool,
    },
    Forget {
        to: usize,
        author: usize,
    },
    Advance {
        to: usize,
        limit: usize,
    },
    TakeTurn {
        to: usize,
    },
    Restart {
        to: usize,
    },
    LookAt {
        to: usize,
    },
    MarkUnserved {
        to: usize,
        content: usize,
    },
    ClearUnserved {
        to: usize,
        content: usize,
    },
    /// The observer receives owners of paths. Other observers may receive them later, or receive
    /// different ones.
    SetOwners {
        to: usize,
        owners: Owners,
    },
}

pub(super) const CONTENTS: [&str; 4] = ["", "one", "two", "three!"];

fn entries() -> impl Strategy<Value = Entry> {
    let times = (0i64..4, 0i64..4);
    prop_oneof![
        6 => (0..CONTENTS.len(), any::<bool>()).prop_map(|(content, executable)| Kind::File {
            hash: hash(CONTENTS[content]),
            size_bytes: CONTENTS[content].len() as u64,
            executable,
        }),
        2 => Just(Kind::Directory),
        1 => prop_oneof![Just("x"), Just("y")]
            .prop_map(|target| Kind::Symlink { target: Bytes::from_static(target.as_bytes()) }),
    ]
    .prop_flat_map(move |kind| {
        let is_file = matches!(kind, Kind::File { .. });
        let replaces = proptest::collection::vec(objects(), 0..=3 * usize::from(is_file));
        (Just(kind), times.clone(), replaces)
    })
    .prop_map(|(kind, (mtime, version), replaces)| Entry {
        kind,
        mtime: time(mtime),
        version_time: time(version),
        sent_by: None,
        replaces,
    })
}

/// Generates the contents of the objects that [`entries`] generates.
fn objects() -> impl Strategy<Value = ContentHash> {
    let link = |target: &'static str| Kind::Symlink {
        target: Bytes::from_static(target.as_bytes()),
    };
    prop_oneof![
        6 => (0..CONTENTS.len()).prop_map(|content| hash(CONTENTS[content])),
        1 => Just(Kind::Directory.content()),
        1 => prop_oneof![Just("x"), Just("y")].prop_map(move |target| link(target).content()),
    ]
}

fn paths() -> impl Strategy<Value = SharedPath> {
    let name = prop_oneof![
        3 => Just("a"),
        3 => Just("b.x"),
        1 => Just("b~n1.x"),
        1 => Just("b~n0-1a1a.x"),
        1 => Just("a~n2"),
    ];
    proptest::collection::vec(name, 1..4).prop_map(|names| path(&names.join("/")))
}

/// Generates owners of paths: nested ones, the root, and paths without any object.
pub(super) fn owners() -> impl Strategy<Value = Owners> {
    let path = prop_oneof![
        1 => Just(SharedPath::root()),
        6 => paths(),
    ];
    let owned = proptest::collection::vec((path, 0..NODES), 0..3);
    owned.prop_map(|all| {
        let owner = |(path, author)| (path, node_id(author));
        all.into_iter().map(owner).collect()
    })
}

pub(super) fn steps() -> impl Strategy<Value = Step> {
    let (author, to) = (0..NODES, 0..2usize);
    prop_oneof![
        10 => (author.clone(), 0u16..2, paths(), entries())
            .prop_map(|(author, share, path, entry)| Step::Put { author, share, path, entry }),
        4 => (author.clone(), any::<usize>())
            .prop_map(|(author, nth)| Step::Remove { author, nth }),
        3 => (author.clone(), paths(), proptest::collection::vec(objects(), 1..4), 0i64..4)
            .prop_map(|(author, path, contents, at)| {
                Step::Delete { author, path, contents, at: time(at) }
            }),
        3 => (author.clone(), 0u16..2, any::<bool>())
            .prop_map(|(author, share, open)| Step::SetOpen { author, share, open }),
        2 => (author.clone(), 0..CONTENTS.len())
            .prop_map(|(author, content)| Step::Have { author, content }),
        1 => (author.clone(), 0..CONTENTS.len())
            .prop_map(|(author, content)| Step::HaveNot { author, content }),
        1 => author.clone().prop_map(|author| Step::Compact { author }),
        1 => author.clone().prop_map(|author| Step::Recover { author }),
        8 => (to.clone(), author.clone(), 1..4usize)
            .prop_map(|(to, author, limit)| Step::Deliver { to, author, limit }),
        4 => (to.clone(), author.clone(), any::<bool>())
            .prop_map(|(to, author, live)| Step::SetLive { to, author, live }),
        1 => (to.clone(), author).prop_map(|(to, author)| Step::Forget { to, author }),
        3 => (to.clone(), 1..9usize).prop_map(|(to, limit)| Step::Advance { to, limit }),
        8 => to.clone().prop_map(|to| Step::TakeTurn { to }),
        1 => to.clone().prop_map(|to| Step::Restart { to }),
        2 => (to.clone(), owners()).prop_map(|(to, owners)| Step::SetOwners { to, owners }),
        2 => (to.clone(), 0..CONTENTS.len())
            .prop_map(|(to, content)| Step::MarkUnserved { to, content }),
        1 => (to.clone(), 0..CONTENTS.len())
            .prop_map(|(to, content)| Step::ClearUnserved { to, content }),
        2 => to.prop_map(|to| Step::LookAt { to }),
    ]
}

pub(super) struct Observer {
    pub(super) catalogue: Catalogue,
    pulls: [Option<Pull>; NODES],
}

impl Observer {
    fn new(number: u8) -> Self {
        let mut catalogue = node(number, "observer");
        // With small steps, most events happen during a sweep.
        catalogue.logs.merge.settling.step_records = 2;
        catalogue.queue.steps = 3;
        Self {
            catalogue,
            pulls: [None; NODES],
        }
    }

    fn knows(&self, head: &SignedHead) -> bool {
        // A floor that the test raises does not raise the sequence.
        let said = |signed: &SignedHead| {
            (
                signed.head.epoch,
                signed.head.sequence,
                signed.head.count,
                signed.head.digest,
            )
        };
        self.catalogue.logs().head_of(&head.head.author).map(said) == Some(said(head))
    }

    /// Transfers one part of one author's log, or its head.
    fn take_part(&mut self, author: usize, from: &Catalogue, limit: usize) {
        let id = node_id(author);
        let Some(pull) = self.pulls[author] else {
            let head = from.logs().head_of(&id).unwrap();
            if let HeadOutcome::Pull(pull) = self.catalogue.handle_head(head) {
                self.pulls[author] = Some(pull);
            }
            return;
        };
        let Some(part) = from.logs().part_within(&id, pull.epoch, pull.after, limit) else {
            self.pulls[author] = None;
            return;
        };
        match self.catalogue.intake().begin(id, part) {
            Ok(None) => {}
            Ok(Some(applied)) => self.note(author, applied),
            Err(_) => self.pulls[author] = None,
        }
    }

    fn note(&mut self, author: usize, applied: Applied) {
        self.pulls[author] = match applied {
            Applied::Complete | Applied::OverBudget => None,
            Applied::More(next) | Applied::Compacted(next) => Some(next),
            Applied::Mismatch { retry } => retry,
        };
    }

    fn take_turn(&mut self) {
        self.catalogue.intake().take_turn();
        while let Some((id, applied)) = self.catalogue.intake().poll_applied() {
            let author = (0..NODES).find(|author| node_id(*author) == id);
            self.note(author.expect("one of the authors"), applied);
        }
    }

    /// Restarts an observer as after a kill: only the pending writes survive.
    fn restart(&mut self, number: u8, live: impl Iterator<Item = NodeId>) {
        self.catalogue.storage().store_anew();
        let writes = self.catalogue.storage().take_writes(usize::MAX);
        *self = Self::new(number);
        for write in writes {
            if let Some(state) = write.state {
                self.catalogue
                    .storage()
                    .restore(write.author, state, write.puts)
                    .unwrap();
            }
        }
        live.for_each(|node| self.catalogue.set_live(node, true).unwrap());
    }
}

pub(super) struct World {
    pub(super) authors: Vec<Catalogue>,
    pub(super) said: Vec<Said>,
    pub(super) observers: [Observer; 2],
}

impl World {
    pub(super) fn new() -> Self {
        let authors =
            (0..NODES).map(|n| Catalogue::new(node_id(n), NodeName::new(NAMES[n]).unwrap()));
        Self {
            authors: authors.collect(),
            said: vec![Said::default(); NODES],
            observers: [Observer::new(0xf0), Observer::new(0xf1)],
        }
    }

    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Put {
                author,
                share,
                path,
                entry,
            } => {
                self.authors[author]
                    .own_mut()
                    .put(ShareIndex(share), &path, entry.clone())
                    .unwrap();
                self.said[author]
                    .entries
                    .insert((ShareIndex(share), path), entry);
            }
            Step::Remove { author, nth } => {
                let keys: Vec<_> = self.said[author].entries.keys().cloned().collect();
                if let Some((share, path)) = keys.get(nth % keys.len().max(1)) {
                    assert!(self.authors[author].own_mut().remove(*share, path));
                    self.said[author].entries.remove(&(*share, path.clone()));
                }
            }
            Step::Delete {
                author,
                path,
                contents,
                at,
            } => self.delete(author, path, contents, at),
            Step::SetOpen {
                author,
                share,
                open,
            } => {
                let share = ShareIndex(share);
                let has_changed = if open {
                    self.said[author].open.insert(share)
                } else {
                    self.said[author].open.remove(&share)
                };
                let set = self.authors[author].own_mut().set_open(share, open);
                assert_eq!(set, Ok(has_changed));
            }
            Step::Have { author, content } => {
                let (hash, size) = (hash(CONTENTS[content]), CONTENTS[content].len() as u64);
                self.authors[author].own_mut().have(hash, size).unwrap();
                self.said[author].haves.insert(hash, size);
            }
            Step::HaveNot { author, content } => {
                let known = self.said[author].haves.remove(&hash(CONTENTS[content]));
                assert_eq!(
                    self.authors[author]
                        .own_mut()
                        .have_not(hash(CONTENTS[content])),
                    known.is_some()
                );
            }
            Step::Compact { author } => {
                let floor = self.authors[author].own().head().sequence / 2;
                let me = self.authors[author].logs.me;
                self.authors[author].logs.raise_floor(me, floor);
            }
            Step::Recover { author } => {
                let epoch = self.authors[author].own().head().epoch;
                self.authors[author].own_mut().recover(epoch);
            }
            other => self.observe(other),
        }
    }

    fn delete(
        &mut self,
        author: usize,
        path: SharedPath,
        contents: Vec<ContentHash>,
        at: Timestamp,
    ) {
        let said = &mut self.said[author];
        let time = said.time_of_deletion(&path, &contents, at);
        let mut own = self.authors[author].own_mut();
        assert!(own.delete(&path, contents.clone(), at).unwrap());
        let (all, latest) = said.gone.entry(path).or_default();
        all.extend(contents);
        *latest = time;
    }

    fn observe(&mut self, step: Step) {
        match step {
            Step::Deliver { to, author, limit } => {
                signed(&mut self.authors[author]);
                self.observers[to].take_part(author, &self.authors[author], limit);
            }
            Step::SetLive { to, author, live } => {
                self.observers[to]
                    .catalogue
                    .set_live(node_id(author), live)
                    .unwrap();
            }
            Step::Forget { to, author } => {
                self.observers[to].pulls[author] = None;
                self.observers[to].catalogue.forget(&node_id(author));
            }
            Step::Advance { to, limit } => {
                self.observers[to].catalogue.advance(limit);
            }
            Step::TakeTurn { to } => self.observers[to].take_turn(),
            Step::Restart { to } => self.observers[to].restart(0xf0 + to as u8, std::iter::empty()),
            Step::SetOwners { to, owners } => self.observers[to].catalogue.set_owners(owners),
            Step::MarkUnserved { to, content } => {
                let content = key(CONTENTS[content]);
                let expires_at = Instant::now();
                let _authors = self.observers[to]
                    .catalogue
                    .unserved()
                    .mark(content, expires_at);
            }
            Step::ClearUnserved { to, content } => {
                let content = key(CONTENTS[content]);
                let mut unserved = self.observers[to].catalogue.unserved();
                unserved.clear(&content, &[], Portion::Part);
            }
            Step::LookAt { to } => drop(listing(&self.observers[to].catalogue.view())),
            _ => unreachable!("the authors' steps were taken above"),
        }
    }

    /// Marks contents as unserved at every observer, and no others.
    pub(super) fn mark_unserved(&mut self, unserved: &BTreeSet<ContentKey>) {
        let expires_at = Instant::now();
        for observer in &mut self.observers {
            observer.catalogue.unserved().expire(expires_at);
            for content in unserved {
                observer.catalogue.unserved().mark(*content, expires_at);
            }
            while observer.catalogue.advance(5) {}
        }
    }

    /// Gives every observer all logs, the same live nodes and the same owners.
    pub(super) fn settle(&mut self, live: &BTreeSet<usize>, owners: &Owners) {
        for author in 0..NODES {
            let head = signed(&mut self.authors[author]);
            for observer in &mut self.observers {
                for _ in 0..1000 {
                    observer.take_part(author, &self.authors[author], 3);
                    observer.take_turn();
                    if observer.knows(&head) && observer.pulls[author].is_none() {
                        break;
                    }
                }
                let live = live.contains(&author);
                observer.catalogue.set_live(node_id(author), live).unwrap();
                assert!(observer.knows(&head));
                while observer.catalogue.advance(5) {}
            }
        }
        for observer in &mut self.observers {
            observer.catalogue.set_owners(owners.clone());
            while observer.catalogue.advance(5) {}
        }
    }
}
