//! The merge of nodes' logs. Two observers receive the same logs in different pieces and orders,
//! among them those of a node that lies about its own log, and end with the same namespace.

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use p2pfs_catalogue::{Applied, Catalogue, Cost, HeadOutcome, LogPart, Owners, Pull, View};
use p2pfs_proto::wire::native::record::{
    Entry, Fact, Head, Kind, Record, ShareIndex, SignedHead, Timestamp,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

const AUTHORS: u8 = 3;
/// The node that lies about its own log.
const LIAR: u8 = 9;
const NAMES: [&str; 5] = ["a", "b.x", "b~n1.x", "a~n2", "c"];

fn id(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

fn node(number: u8, name: &str) -> Catalogue {
    Catalogue::new(id(number), NodeName::new(name).expect("a name"))
}

fn path(choose: &mut Unstructured<'_>) -> Result<SharedPath> {
    let depth = choose.int_in_range(1..=3)?;
    let names: Vec<_> = (0..depth)
        .map(|_| choose.choose(&NAMES))
        .collect::<Result<_>>()?;
    let text = names.into_iter().copied().collect::<Vec<_>>().join("/");
    Ok(SharedPath::new(text.into_bytes()).expect("a path"))
}

fn time(choose: &mut Unstructured<'_>) -> Result<Timestamp> {
    Ok(Timestamp {
        seconds: choose.int_in_range(0..=3)?,
        nanoseconds: 0,
    })
}

fn entry(choose: &mut Unstructured<'_>) -> Result<Entry> {
    let kind = match choose.int_in_range(0..=5u8)? {
        0 => Kind::Directory,
        1 => Kind::Symlink {
            target: Bytes::from_static(b"a"),
        },
        content => Kind::File {
            hash: ContentHash::of(&[content]),
            size_bytes: 1,
            executable: choose.arbitrary()?,
        },
    };
    Ok(Entry {
        mtime: time(choose)?,
        version_time: time(choose)?,
        sent_by: None,
        replaces: match kind {
            Kind::File { .. } => contents(choose, 0)?,
            _ => Vec::new(),
        },
        kind,
    })
}

/// Returns contents that a version replaces or a deletion deletes, at least `min`.
fn contents(choose: &mut Unstructured<'_>, min: usize) -> Result<Vec<ContentHash>> {
    let count = choose.int_in_range(min..=3)?;
    let content = |choose: &mut Unstructured<'_>| {
        let number = choose.int_in_range(1..=5u8)?;
        Ok(match number {
            1 => Kind::Directory.content(),
            content => ContentHash::of(&[content]),
        })
    };
    (0..count).map(|_| content(choose)).collect()
}

struct World {
    authors: Vec<Catalogue>,
    observers: [Catalogue; 2],
    pulls: [[Option<Pull>; AUTHORS as usize]; 2],
}

impl World {
    fn new() -> Self {
        Self {
            // Two have one name, so that labels matter.
            authors: vec![node(1, "n1"), node(2, "n2"), node(3, "n1")],
            observers: [node(0xf0, "observer"), node(0xf1, "observer")],
            pulls: [[None; AUTHORS as usize]; 2],
        }
    }

    fn step(&mut self, choose: &mut Unstructured<'_>) -> Result<()> {
        let at = choose.choose_index(self.authors.len())?;
        let to = choose.choose_index(2)?;
        let author = &mut self.authors[at];
        let share = ShareIndex(choose.int_in_range(0..=1)?);
        match choose.int_in_range(0..=15u8)? {
            0..=3 => {
                let (path, entry) = (path(choose)?, entry(choose)?);
                author
                    .own_mut()
                    .put(share, &path, entry)
                    .expect("within every budget");
            }
            4 => drop(author.own_mut().remove(share, &path(choose)?)),
            5 => {
                let hash = ContentHash::of(&[choose.int_in_range(2..=5)?]);
                author.own_mut().have(hash, 1).expect("within every budget");
            }
            6 => drop(
                author
                    .own_mut()
                    .have_not(ContentHash::of(&[choose.int_in_range(2..=5)?])),
            ),
            7 | 8 => self.deliver(to, at),
            9 => {
                let live = choose.arbitrary()?;
                self.observers[to]
                    .set_live(id(at as u8 + 1), live)
                    .expect("few nodes");
            }
            10 => {
                let owners = owners(choose)?;
                self.observers[to].set_owners(owners);
            }
            11 => {
                self.observers[to].forget(&id(at as u8 + 1));
                self.pulls[to][at] = None;
            }
            12 => lie(choose, &mut self.observers[to])?,
            13 => {
                let open = choose.arbitrary()?;
                let set = author.own_mut().set_open(share, open);
                set.expect("within every budget");
            }
            _ => {
                let (path, contents) = (path(choose)?, contents(choose, 1)?);
                let deleted = author.own_mut().delete(&path, contents, time(choose)?);
                assert_eq!(deleted, Ok(true), "within every budget");
            }
        }
        let _more = self.observers[to].advance(choose.int_in_range(1..=8)?);
        let _changes = std::iter::from_fn(|| self.observers[to].poll_change()).count();
        Ok(())
    }

    /// Does one step of a pull of an author's log.
    fn deliver(&mut self, to: usize, at: usize) {
        let (author, observer) = (&mut self.authors[at], &mut self.observers[to]);
        sign(author);
        let who = id(at as u8 + 1);
        let Some(pull) = self.pulls[to][at] else {
            let head = author.logs().head_of(&who).expect("it is signed");
            if let HeadOutcome::Pull(pull) = observer.handle_head(head) {
                self.pulls[to][at] = Some(pull);
            }
            return;
        };
        let part = author.logs().part(&who, pull.epoch, pull.after);
        self.pulls[to][at] = match part.map(|part| observer.intake().apply(who, part)) {
            None | Some(Ok(Applied::Complete | Applied::OverBudget) | Err(_)) => None,
            Some(Ok(Applied::More(next) | Applied::Compacted(next))) => Some(next),
            Some(Ok(Applied::Mismatch { retry })) => retry,
        };
    }

    /// Delivers all logs to both observers, which then know the same live nodes and owners.
    fn settle(&mut self, owners: &Owners) {
        for to in 0..2 {
            for at in 0..self.authors.len() {
                let who = id(at as u8 + 1);
                self.observers[to].set_live(who, true).expect("few nodes");
                self.pulls[to][at] = None;
                for _ in 0..20 {
                    self.deliver(to, at);
                }
                let head = |it: &Catalogue| it.logs().head_of(&who).map(|it| it.head.digest);
                assert_eq!(
                    head(&self.observers[to]),
                    head(&self.authors[at]),
                    "a pull ends"
                );
            }
            self.observers[to].forget(&id(LIAR));
            self.observers[to].set_owners(owners.clone());
            while self.observers[to].advance(3) {}
            assert_eq!(
                self.observers[to].logs().cost_of(&id(LIAR)),
                Cost::default()
            );
        }
    }
}

fn owners(choose: &mut Unstructured<'_>) -> Result<Owners> {
    let mut owners = Owners::new();
    for _ in 0..choose.int_in_range(0..=2)? {
        owners.insert(path(choose)?, id(choose.int_in_range(1..=AUTHORS)?));
    }
    Ok(owners)
}

fn sign(author: &mut Catalogue) {
    let signed = SignedHead {
        head: author.own().head(),
        signature: [[7; 32]; 2],
    };
    assert!(author.own_mut().sign(signed));
}

/// Sends a false head and some records.
fn lie(choose: &mut Unstructured<'_>, observer: &mut Catalogue) -> Result<()> {
    let head = Head {
        author: id(LIAR),
        name: NodeName::new("liar").expect("a name"),
        epoch: choose.int_in_range(0..=3)?,
        sequence: choose.arbitrary()?,
        count: choose.arbitrary()?,
        floor: choose.arbitrary()?,
        digest: [choose.arbitrary()?; 32],
    };
    let signed = SignedHead {
        head,
        signature: [[7; 32]; 2],
    };
    let _outcome = observer.handle_head(&signed);
    let mut records = Vec::new();
    for _ in 0..choose.int_in_range(0..=4)? {
        let (share, path) = (ShareIndex(choose.arbitrary()?), path(choose)?);
        let fact = match choose.int_in_range(0..=5u8)? {
            0 => Fact::Removed { share, path },
            2 => Fact::Gone {
                path,
                replaces: contents(choose, 0)?,
                time: time(choose)?,
            },
            3 => Fact::Terms {
                share,
                open: choose.arbitrary()?,
            },
            1 => Fact::Have {
                hash: ContentHash::of(&[choose.arbitrary()?]),
                size_bytes: choose.arbitrary()?,
            },
            _ => Fact::Entry {
                share,
                path,
                entry: entry(choose)?,
            },
        };
        records.push(Record {
            sequence: choose.arbitrary()?,
            fact,
        });
    }
    let part = LogPart {
        head: signed,
        fresh: choose.arbitrary()?,
        records,
        last: choose.arbitrary()?,
    };
    let _outcome = observer.intake().apply(id(LIAR), part);
    Ok(())
}

fn listing(view: &View) -> Vec<String> {
    let mut all = Vec::new();
    let mut open = vec![SharedPath::root()];
    while let Some(dir) = open.pop() {
        for child in view.children(&dir, None, usize::MAX) {
            let path = dir.join(&child.name).expect("a name");
            let found = child.found;
            // A directory belongs to the viewer.
            let is_directory = found.kind == Kind::Directory;
            let author = (!is_directory).then_some(found.author);
            all.push(format!(
                "{path} {:?} {:?} {author:?}",
                found.kind, found.mtime
            ));
            if is_directory {
                open.push(path);
            }
        }
    }
    all.sort();
    all
}

/// Runs steps until the bytes end. Then both observers must show the same.
pub fn drive(choose: &mut Unstructured<'_>) -> Result<()> {
    let mut world = World::new();
    let owners = owners(choose)?;
    let mut steps = 0;
    let mut outcome = Ok(());
    while !choose.is_empty() && steps < 200 && outcome.is_ok() {
        steps += 1;
        outcome = world.step(choose);
    }
    world.settle(&owners);
    let [one, other] = &mut world.observers;
    assert_eq!(listing(&one.view()), listing(&other.view()));
    assert_eq!(one.view().totals(), other.view().totals());
    for (path, owner) in &owners {
        let found = one.view().lookup(path);
        if let Some(found) = found.filter(|found| found.kind != Kind::Directory) {
            assert_eq!(
                found.author, *owner,
                "somebody else's file at an owned path"
            );
        }
    }
    outcome
}
