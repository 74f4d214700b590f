//! The namespace below the filesystem: catalogues of a few nodes, and this node's own files on a
//! real disk. All change at random.

mod content;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use p2pfs_catalogue::{Applied, Catalogue, Change, HeadOutcome, View};
use p2pfs_fs::LiveAttributes;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, SignedHead, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;
use parking_lot::{Mutex, MutexGuard};
use rand::RngExt;
use rand::rngs::StdRng;

/// Sizes of the contents.
const SIZES: [usize; 5] = [0, 3, 4096, 9_000, 40_000];
/// Few names, so that they collide. Some look like conflict names.
const NAMES: [&str; 6] = ["a", "b.x", "b~lab.x", "a~far", "d", "\u{e9} \n"];
const DEPTH_MAX: usize = 3;
const OWN: ShareIndex = ShareIndex(0);
/// Names of the other nodes. Two are equal.
const FAR_NAMES: [&str; 3] = ["far", "lab", "lab"];

/// A content with its file on the disk and its hash.
pub(super) struct Stored {
    pub bytes: Vec<u8>,
    pub hash: ContentHash,
    file: Arc<File>,
}

/// All contents that there are.
pub(super) static CONTENTS: LazyLock<Vec<Stored>> = LazyLock::new(|| {
    let stored = |(seed, length_bytes): (usize, &usize)| {
        let mut bytes = vec![0; *length_bytes];
        let mut noise = blake3::Hasher::new();
        noise.update(&[seed as u8]).finalize_xof().fill(&mut bytes);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        let hash = ContentHash::of(&bytes);
        let file = Arc::new(file);
        Stored { bytes, hash, file }
    };
    SIZES.iter().enumerate().map(stored).collect()
});

/// Returns the content of a hash.
pub(super) fn stored(hash: &ContentHash) -> &'static Stored {
    CONTENTS.iter().find(|it| it.hash == *hash).unwrap()
}

/// Notifications from the node to its mount. Each arrives in order, some time after the change.
pub(super) enum Told {
    Names(Arc<View>, Vec<Change>),
    CachedBytes(ContentHash),
}

/// Names and bytes, as a node has them.
pub(super) struct World {
    state: Mutex<State>,
    own_folder: tempfile::TempDir,
}

struct State {
    near: Catalogue,
    fars: Vec<Catalogue>,
    view: Arc<View>,
    told: VecDeque<Told>,
    cached: HashMap<ContentHash, u64>,
    open: HashMap<u64, ContentHash>,
    last_handle: u64,
    last_opened: Option<Arc<File>>,
    clock: i64,
    own: BTreeSet<SharedPath>,
}

fn catalogue(id: u8, name: &str) -> Catalogue {
    Catalogue::new(NodeId::new([id; 32]), NodeName::new(name).unwrap())
}

fn time(seconds: i64) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: 5,
    }
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        let mut near = catalogue(7, "near");
        let fars: Vec<Catalogue> = (20..)
            .zip(FAR_NAMES)
            .map(|(id, name)| catalogue(id, name))
            .collect();
        for far in &fars {
            near.set_live(far.own().head().author, true).unwrap();
        }
        let state = State {
            view: near.view(),
            near,
            fars,
            told: VecDeque::new(),
            cached: HashMap::new(),
            open: HashMap::new(),
            last_handle: 0,
            last_opened: None,
            clock: 0,
            own: BTreeSet::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            own_folder: tempfile::tempdir().unwrap(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Does one random change, which no other part knows yet. Returns its description.
    pub(super) fn change(&self, random: &mut StdRng) -> String {
        let path = random_path(random);
        let far = random.random_range(0..FAR_NAMES.len());
        let state = &mut *self.lock();
        match random.random_range(0..100) {
            0..30 => {
                let entry = random_entry(random);
                let told = format!("{far} puts {path:?}: {:?}", entry.kind);
                state.fars[far].own_mut().put(OWN, &path, entry).unwrap();
                told
            }
            30..45 => {
                let known: Vec<SharedPath> =
                    state.fars[far].own().entries(OWN).map(|it| it.0).collect();
                let Some(path) = pick(&known, random) else {
                    return "nothing".to_owned();
                };
                state.fars[far].own_mut().remove(OWN, path);
                format!("{far} removes {path:?}")
            }
            45..55 => {
                let live = random.random_bool(0.6);
                let id = state.fars[far].own().head().author;
                state.near.set_live(id, live).unwrap();
                format!("{far} lives {live}")
            }
            55..60 => {
                let content = random_content(random);
                let (hash, size) = (content.hash, content.bytes.len() as u64);
                if random.random_bool(0.6) {
                    state.fars[far].own_mut().have(hash, size).unwrap();
                } else {
                    state.fars[far].own_mut().have_not(hash);
                }
                format!("{far} has or has not {hash}")
            }
            60..70 => {
                let content = random_content(random);
                let size = content.bytes.len() as u64;
                let mut cached = [0, size / 2, size][random.random_range(0..3)];
                if state.open.values().any(|hash| *hash == content.hash) {
                    // Bytes of an open file are not evicted.
                    cached = cached.max(state.cached.get(&content.hash).copied().unwrap_or(0));
                }
                state.cached.insert(content.hash, cached);
                state.told.push_back(Told::CachedBytes(content.hash));
                format!("{cached} bytes of {} cached", content.hash)
            }
            70..90 => self.change_own(state, path, random),
            _ => {
                let own: Vec<SharedPath> = state.own.iter().cloned().collect();
                match pick(&own, random) {
                    Some(path) => self.hash_own(state, path),
                    None => "nothing".to_owned(),
                }
            }
        }
    }

    /// Publishes a file `theirs` of another node and a file `own`.
    pub(super) fn put_one_of_each(&self, random: &mut StdRng) {
        let path = |name: &str| SharedPath::new(name.as_bytes()).unwrap();
        {
            let state = &mut *self.lock();
            let mut entry = random_entry(random);
            entry.kind = Kind::File {
                hash: CONTENTS[1].hash,
                size_bytes: CONTENTS[1].bytes.len() as u64,
                executable: false,
            };
            state.fars[0]
                .own_mut()
                .put(OWN, &path("theirs"), entry)
                .unwrap();
            fs::write(self.own_file(&path("own")), b"own").unwrap();
            self.hash_own(state, &path("own"));
        }
        self.hear_all();
        self.publish();
    }

    fn own_file(&self, path: &SharedPath) -> PathBuf {
        self.own_folder.path().join(own_name(path))
    }

    /// Changes an own file on the disk. It is not hashed yet.
    fn change_own(&self, state: &mut State, path: SharedPath, random: &mut StdRng) -> String {
        let (file, bytes) = (self.own_file(&path), &random_content(random).bytes);
        let told = match random.random_range(0..4) {
            0 => {
                let _ = fs::remove_file(&file);
                "removed"
            }
            1 => {
                fs::write(&file, bytes).unwrap();
                "written in place"
            }
            2 if file.exists() => {
                let mode = [0o644, 0o755][random.random_range(0..2)];
                fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
                "changed in mode"
            }
            _ => {
                let beside = file.with_extension("new");
                fs::write(&beside, bytes).unwrap();
                fs::rename(&beside, &file).unwrap();
                "replaced"
            }
        };
        state.own.insert(path.clone());
        format!("own {path:?} {told}, {} bytes", bytes.len())
    }

    /// Hashes an own file, as the share does after a scan.
    fn hash_own(&self, state: &mut State, path: &SharedPath) -> String {
        let Ok(file) = File::open(self.own_file(path)) else {
            state.near.own_mut().remove(OWN, path);
            state.own.remove(path);
            return format!("own {path:?} is not there any more");
        };
        let meta = file.metadata().unwrap();
        let mut bytes = vec![0; meta.len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        state.clock += 1;
        let kind = Kind::File {
            hash: ContentHash::of(&bytes),
            size_bytes: meta.len(),
            executable: meta.mode() & 0o100 != 0,
        };
        let mtime = LiveAttributes::of(&file).unwrap().mtime;
        let entry = Entry {
            kind,
            mtime,
            version_time: time(state.clock % 8),
            sent_by: None,
            replaces: Vec::new(),
        };
        state.near.own_mut().put(OWN, path, entry).unwrap();
        format!("own {path:?} hashed, {} bytes", bytes.len())
    }

    /// Copies a far node's file to the same name, with its time. From then on the own file replaces
    /// the other node's under that name.
    pub(super) fn copy_to_own(&self, random: &mut StdRng) -> String {
        let state = &mut *self.lock();
        let far = random.random_range(0..FAR_NAMES.len());
        let known: Vec<(SharedPath, Entry)> = state.fars[far].own().entries(OWN).collect();
        let Some((path, entry)) = pick(&known, random) else {
            return "nothing".to_owned();
        };
        let Kind::File { hash, .. } = entry.kind else {
            return "nothing".to_owned();
        };
        let file = self.own_file(path);
        let _ = fs::remove_file(&file);
        fs::write(&file, &stored(&hash).bytes).unwrap();
        let since = std::time::Duration::new(entry.mtime.seconds as u64, entry.mtime.nanoseconds);
        let modified = std::time::SystemTime::UNIX_EPOCH + since;
        File::options()
            .write(true)
            .open(&file)
            .unwrap()
            .set_modified(modified)
            .unwrap();
        state.own.insert(path.clone());
        state.near.own_mut().put(OWN, path, entry.clone()).unwrap();
        format!("own {path:?} is a copy of {far}'s")
    }

    /// Takes over the entries of another node, as a pull does.
    pub(super) fn hear(&self, far: usize) {
        let state = &mut *self.lock();
        let (near, far) = (&mut state.near, &mut state.fars[far % FAR_NAMES.len()]);
        let head = far.own().head();
        let author = head.author;
        let signature = [[0; 32]; 2];
        let signed = SignedHead { head, signature };
        assert!(far.own_mut().sign(signed.clone()));
        let mut next = match near.handle_head(&signed) {
            HeadOutcome::Pull(pull) => Some(pull),
            HeadOutcome::Known => None,
            other => panic!("{other:?}"),
        };
        while let Some(pull) = next {
            let part = far
                .logs()
                .part(&pull.author, pull.epoch, pull.after)
                .unwrap();
            next = match near.intake().apply(author, part).unwrap() {
                Applied::More(pull) => Some(pull),
                Applied::Complete => None,
                other => panic!("{other:?}"),
            };
        }
    }

    /// Takes over the entries of all other nodes.
    pub(super) fn hear_all(&self) {
        (0..FAR_NAMES.len()).for_each(|far| self.hear(far));
        while self.lock().near.advance(usize::MAX) {}
    }

    /// Publishes the new view. Its changes are notified later.
    pub(super) fn publish(&self) {
        let state = &mut *self.lock();
        let view = state.near.view();
        let changes: Vec<Change> = std::iter::from_fn(|| state.near.poll_change()).collect();
        state.view = view.clone();
        state.told.push_back(Told::Names(view, changes));
    }

    /// Returns the next notification for the mount.
    pub(super) fn next_told(&self) -> Option<Told> {
        self.lock().told.pop_front()
    }

    /// Returns the own file that the last open opened, if any.
    pub(super) fn take_last_opened(&self) -> Option<Arc<File>> {
        self.lock().last_opened.take()
    }

    /// Returns the current names in a directory.
    pub(super) fn children(&self, path: &SharedPath) -> BTreeSet<Vec<u8>> {
        let children = self.lock().view.children(path, None, usize::MAX);
        children
            .into_iter()
            .map(|child| child.name.into_vec())
            .collect()
    }
}

fn pick<'a, T>(from: &'a [T], random: &mut StdRng) -> Option<&'a T> {
    (!from.is_empty()).then(|| &from[random.random_range(0..from.len())])
}

fn random_content(random: &mut StdRng) -> &'static Stored {
    &CONTENTS[random.random_range(0..CONTENTS.len())]
}

/// Returns a random path of a few names.
pub(super) fn random_path(random: &mut StdRng) -> SharedPath {
    let depth = random.random_range(1..=DEPTH_MAX);
    let names: Vec<&str> = (0..depth)
        .map(|_| NAMES[random.random_range(0..NAMES.len())])
        .collect();
    SharedPath::new(names.join("/").into_bytes()).unwrap()
}

fn random_entry(random: &mut StdRng) -> Entry {
    let content = random_content(random);
    let kind = match random.random_range(0..10) {
        0..7 => Kind::File {
            hash: content.hash,
            size_bytes: content.bytes.len() as u64,
            executable: random.random_bool(0.3),
        },
        7..9 => Kind::Directory,
        _ => Kind::Symlink {
            target: Bytes::from_static([b"a", b"d"][random.random_range(0..2)]),
        },
    };
    Entry {
        kind,
        mtime: time(random.random_range(0..4)),
        version_time: time(random.random_range(0..8)),
        sent_by: None,
        replaces: Vec::new(),
    }
}

/// Returns the name of an own file in the flat folder on the disk.
fn own_name(path: &SharedPath) -> String {
    blake3::hash(path.as_bytes()).to_hex()[..16].to_owned()
}
