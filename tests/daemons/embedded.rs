//! Programs that embed a node: those of `examples/`, and the promises of the interface.

use std::fs;
use std::io::SeekFrom;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use macro_rules_attribute::apply;
use p2pfs_node::api::ShareProgress;
use p2pfs_node::{
    Audience, FileError, Leave, News, Node, NodeBuilder, NodeError, StopProblem, Who,
};
use p2pfs_proto::trust::{Grant, TrustError};
use p2pfs_proto::wire::native::record::SHARES_MAX;
use p2pfs_types::path::SharedPath;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::runtime::Runtime;

use crate::support::content::noise;
use crate::support::daemon::set_mode;
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, promise};

#[allow(unreachable_pub, reason = "the file is also a program of its own")]
#[path = "../../examples/backup.rs"]
#[allow(dead_code, reason = "its main is not run here")]
mod backup;
#[allow(unreachable_pub, reason = "the file is also a program of its own")]
#[path = "../../examples/stream.rs"]
#[allow(dead_code, reason = "its main is not run here")]
mod stream;

const NEEDS: &[Need] = &[];
const MIB: usize = 1 << 20;

/// Two nodes of one cluster in this process. `far` shares and `near` reads.
struct Pair {
    folder: tempfile::TempDir,
    near: Node,
    far: Node,
}

fn builder(folder: &Path, name: &str) -> NodeBuilder {
    let secret = folder.join("secret");
    fs::write(&secret, format!("{}\n", "7b".repeat(32))).unwrap();
    set_mode(&secret, 0o600);
    for dir in [name.to_owned(), format!("{name}-share")] {
        fs::create_dir_all(folder.join(&dir)).unwrap();
        set_mode(&folder.join(&dir), 0o755);
    }
    let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Node::builder(name.parse().unwrap(), folder.join(name))
        .listen(anywhere)
        .secret_file(secret)
        .cache(64 << 20, 0)
        .lan(false)
}

impl Pair {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let far = builder(folder.path(), "far").start().await.unwrap();
        let near = builder(folder.path(), "near").seed(far.address());
        let near = near.start().await.unwrap();
        Self { folder, near, far }
    }

    /// Writes a file into the folder of one node.
    fn write(&self, node: &str, name: &str, bytes: &[u8]) {
        let file = self.folder.path().join(format!("{node}-share")).join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        set_mode(&file, 0o644);
    }

    fn share_of(&self, node: &str) -> std::path::PathBuf {
        self.folder.path().join(format!("{node}-share"))
    }

    /// Starts a pair where `near` knows a file that `far` shares.
    async fn shared(name: &str, bytes: &[u8]) -> Self {
        let pair = Self::start().await;
        pair.write("far", name, bytes);
        pair.far.shares().share(pair.share_of("far")).await.unwrap();
        pair.near.names().wait_for(&path(name)).await.unwrap();
        pair
    }

    async fn stop(self) {
        tokio::join!(self.near.stop(Leave::Away), self.far.stop(Leave::Away));
    }
}

fn path(text: &str) -> SharedPath {
    SharedPath::new(text.as_bytes()).unwrap()
}

/// Runs a test to its end, or fails at the limit of all tests.
fn within_limit(test: impl Future<Output = ()>) {
    let runtime = Runtime::new().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(HANG_LIMIT, test).await })
        .expect("it has hung");
    runtime.shutdown_timeout(Duration::from_secs(10));
}

#[apply(promise)]
fn the_streaming_example_delivers_every_byte() {
    within_limit(async {
        let bytes = noise(1, 5 * MIB + 77);
        let pair = Pair::shared("films/film", &bytes).await;
        let mut came = Vec::new();
        let copied = stream::stream(&pair.near, "films/film", &mut came).await;
        assert_eq!(copied.unwrap(), bytes.len() as u64);
        assert!(came == bytes, "other bytes");
        pair.stop().await;
    });
}

#[apply(promise)]
fn the_backup_example_keeps_files_that_their_holder_removes() {
    within_limit(async {
        let pair = Pair::start().await;
        pair.write("far", "docs/a", &noise(2, 3 * MIB));
        pair.write("far", "docs/deep/b", &noise(3, 100));
        pair.write("near", "mine", b"bytes");
        pair.far.shares().share(pair.share_of("far")).await.unwrap();
        // Both names must be listed before the directory is backed up as it is then.
        for name in ["docs/a", "docs/deep/b"] {
            pair.near.names().wait_for(&path(name)).await.unwrap();
        }
        let kept = backup::back_up(&pair.near, &pair.share_of("near"), "docs").await;
        assert_eq!(kept.unwrap(), 3 * MIB as u64 + 100);
        pair.far.names().wait_for(&path("mine")).await.unwrap();
        let Pair { near, far, folder } = pair;
        far.stop(Leave::Final).await;
        drop(far);
        let mut file = near.files().open(&path("docs/a")).await.unwrap();
        let mut came = Vec::new();
        file.read_to_end(&mut came).await.unwrap();
        assert!(came == noise(2, 3 * MIB), "other bytes");
        near.stop(Leave::Away).await;
        drop(folder);
    });
}

#[apply(promise)]
fn a_reader_seeks_and_ends_past_the_last_byte() {
    within_limit(async {
        let bytes = noise(4, 3 * MIB + 5);
        let pair = Pair::shared("file", &bytes).await;
        let mut file = pair.near.files().open(&path("file")).await.unwrap();
        let mut part = vec![0; 70_000];
        for at in [2 * MIB + 1, 0, MIB - 3, MIB + 69_998, 3 * MIB - 69_995] {
            let told = file.seek(SeekFrom::Start(at as u64)).await.unwrap();
            assert_eq!(told, at as u64);
            file.read_exact(&mut part).await.unwrap();
            assert!(part == bytes[at..][..part.len()], "at {at}");
        }
        file.seek(SeekFrom::End(-4)).await.unwrap();
        let mut end = Vec::new();
        file.read_to_end(&mut end).await.unwrap();
        assert_eq!(end, bytes[bytes.len() - 4..]);
        file.seek(SeekFrom::End(10)).await.unwrap();
        assert_eq!(file.read(&mut part).await.unwrap(), 0);
        assert!(
            file.seek(SeekFrom::End(-1 - bytes.len() as i64))
                .await
                .is_err()
        );
        pair.stop().await;
    });
}

#[apply(promise)]
fn get_leaves_the_whole_file_or_the_previous_one() {
    within_limit(async {
        let bytes = noise(5, 2 * MIB);
        let pair = Pair::shared("file", &bytes).await;
        let to = pair.folder.path().join("copy");
        fs::write(&to, "before").unwrap();
        let absent = pair.near.files().get(&path("absent"), &to).await;
        assert!(matches!(absent, Err(FileError::NotFound { .. })));
        assert_eq!(fs::read(&to).unwrap(), b"before");
        assert_eq!(
            pair.near.files().get(&path("file"), &to).await.unwrap(),
            2 * MIB as u64
        );
        assert!(fs::read(&to).unwrap() == bytes, "other bytes");
        let parts = fs::read_dir(pair.folder.path()).unwrap();
        let left = parts.filter(|it| {
            let name = it.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with(".p2pfs-")
        });
        assert_eq!(left.count(), 0, "a part is left");
        pair.stop().await;
    });
}

#[apply(promise)]
fn a_file_that_does_not_fit_is_not_pinned() {
    within_limit(async {
        let pair = Pair::start().await;
        let small = builder(pair.folder.path(), "small").cache(MIB as u64, 0);
        let small = small.seed(pair.far.address()).start().await.unwrap();
        pair.write("far", "large", &noise(6, 2 * MIB));
        pair.far.shares().share(pair.share_of("far")).await.unwrap();
        small.names().wait_for(&path("large")).await.unwrap();
        let refused = small.pins().pin(&path("large")).await;
        // The proofs take some bytes too.
        assert!(matches!(refused, Err(FileError::NoRoom { bytes, .. }) if bytes > 2 * MIB as u64));
        assert_eq!(small.status().cache.pinned_bytes, 0);
        small.stop(Leave::Away).await;
        pair.stop().await;
    });
}

#[apply(promise)]
fn an_own_file_is_read_as_the_opened_version_or_fails() {
    within_limit(async {
        let pair = Pair::start().await;
        let (old, new) = (noise(8, 16 * MIB), noise(9, 16 * MIB));
        for name in ["replaced", "rewritten"] {
            pair.write("far", name, &old);
        }
        let folder = pair.share_of("far");
        pair.far.shares().share(&folder).await.unwrap();
        let begun = async |name| {
            pair.far.names().wait_for(&path(name)).await.unwrap();
            let mut open = pair.far.files().open(&path(name)).await.unwrap();
            let mut start = vec![0; MIB];
            open.read_exact(&mut start).await.unwrap();
            assert!(start == old[..MIB]);
            open
        };
        let (mut replaced, mut rewritten) = (begun("replaced").await, begun("rewritten").await);
        let next = pair.folder.path().join("next");
        fs::write(&next, b"another").unwrap();
        fs::rename(&next, folder.join("replaced")).unwrap();
        let mut rest = Vec::new();
        replaced.read_to_end(&mut rest).await.unwrap();
        assert!(rest == old[MIB..]);
        let file = fs::OpenOptions::new()
            .write(true)
            .open(folder.join("rewritten"));
        file.unwrap().write_all_at(&new, 0).unwrap();
        let mut rest = Vec::new();
        let read = rewritten.read_to_end(&mut rest).await;
        assert!(read.is_err() || rest == old[MIB..], "a mixture");
        pair.stop().await;
    });
}

#[apply(promise)]
fn status_needs_no_event_loop() {
    within_limit(async {
        let Pair { near, far, .. } = Pair::shared("file", b"bytes").await;
        let others = |node: &Node| {
            let members = node.status().members.into_iter();
            members.map(|it| it.status.member.node).collect::<Vec<_>>()
        };
        // Facts that the loop has published are available at once.
        assert_eq!(near.peers().members().await.unwrap().len(), 1);
        assert_eq!(others(&near), [far.id()]);
        near.stop(Leave::Away).await;
        assert!(near.peers().members().await.is_err(), "the loop has ended");
        assert_eq!(others(&near), [far.id()]);
        assert_eq!(near.status().folder.entries, 1);
        far.stop(Leave::Away).await;
    });
}

#[apply(promise)]
fn names_events_and_reasons_come_from_the_node_itself() {
    within_limit(async {
        let pair = Pair::shared("docs/file", b"bytes").await;
        let listed = pair.near.names().list(&path("docs")).unwrap();
        let names: Vec<_> = listed.iter().map(|it| it.path().to_string()).collect();
        assert_eq!(names, ["docs/file"]);
        assert_eq!(listed[0].cached_bytes(), 0);
        assert!(matches!(
            pair.near.names().list(&path("docs/file")),
            Err(FileError::WrongKind { .. })
        ));
        let why = pair.near.names().why(&path("docs/file"), Audience::Owner);
        assert!(why.entry.is_ok());
        assert_eq!(why.versions[0].holders, [pair.far.id()]);
        let mut events = pair.near.events().follow();
        let added = News::Added(path("docs/file"));
        while events.next().await.expect("the node runs").news != added {}
        pair.near
            .files()
            .prefetch(&path("docs"))
            .unwrap()
            .finish()
            .await
            .unwrap();
        assert_eq!(
            pair.near
                .names()
                .find(&path("docs/file"))
                .unwrap()
                .cached_bytes,
            5
        );
        assert_eq!(
            pair.near.files().prefetch(&path("docs")).unwrap().files(),
            0
        );
        pair.stop().await;
    });
}

fn came(news: &News) -> Option<&Who> {
    match news {
        News::PeerUp(who) => Some(who),
        _ => None,
    }
}

fn went(news: &News) -> Option<&Who> {
    match news {
        News::PeerDown(who, _) => Some(who),
        _ => None,
    }
}

/// On a machine with more work than processors, the threads that move bytes wait for their turn.
#[apply(promise)]
fn a_node_starved_of_processor_time_is_not_considered_dead() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let runtime = || {
        let one_thread = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        one_thread.unwrap()
    };
    let (here, busy) = (runtime(), runtime());
    let near = here.block_on(builder(folder.path(), "near").start());
    let near = near.unwrap();
    let start = |runtime: &Runtime, name| {
        let node = builder(folder.path(), name).seed(near.address()).start();
        runtime.block_on(node).unwrap()
    };
    let far = start(&busy, "far");
    let mut events = near.events().follow();
    let mut next = |wanted: fn(&News) -> Option<&Who>| {
        here.block_on(async {
            loop {
                let noted = events.next().await.expect("the node runs");
                if let Some(who) = wanted(&noted.news) {
                    return who.node;
                }
            }
        })
    };
    assert_eq!(next(came), far.id());
    let (is_held, holding) = std::sync::mpsc::channel();
    let (free, held) = std::sync::mpsc::channel::<()>();
    busy.spawn(async move {
        is_held.send(()).unwrap();
        let _freed = held.recv();
    });
    holding.recv().unwrap();
    // By the time these two are declared gone, `far` would be too.
    for name in ["third", "fourth"] {
        let gone = runtime();
        let dead = start(&gone, name);
        assert_eq!(next(came), dead.id());
        gone.shutdown_background();
        assert_eq!(next(went), dead.id());
    }
    drop(free);
}

#[apply(promise)]
fn a_folder_is_shared_after_as_many_others_were_removed_as_there_are_numbers() {
    within_limit(async {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let node = builder(folder.path(), "one").start().await.unwrap();
        for number in 0..SHARES_MAX {
            let dir = folder.path().join(format!("former-{number}"));
            fs::create_dir(&dir).unwrap();
            node.shares().share(&dir).await.unwrap();
            node.shares().remove(&dir).unwrap();
        }
        let last = folder.path().join("last");
        fs::create_dir(&last).unwrap();
        set_mode(&last, 0o755);
        fs::write(last.join("file"), b"bytes").unwrap();
        node.shares().share(&last).await.unwrap();
        node.names().wait_for(&path("file")).await;
        node.stop(Leave::Away).await;
    });
}

#[apply(promise)]
fn a_joiner_has_the_whole_ledger_when_the_join_returns() {
    within_limit(async {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let start = |name: &str| {
            let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
            let node = Node::builder(name.parse().unwrap(), folder.path().join(name));
            let node = node.listen(anywhere).cache(64 << 20, 0).lan(false);
            node.start()
        };
        let (near, far) = (start("near").await.unwrap(), start("far").await.unwrap());
        let other = start("other").await.unwrap();
        let invite = || {
            far.membership()
                .invite(Duration::from_secs(60), Grant::default())
                .unwrap()
        };
        other.membership().join(&invite()).await.unwrap();
        far.membership().expel(other.id()).await.unwrap();
        near.membership().join(&invite()).await.unwrap();
        // The histories must be equal at once. Otherwise the next statement would not follow the
        // earlier ones.
        assert_eq!(
            near.membership().view().ledger().unwrap().history(),
            far.membership().view().ledger().unwrap().history()
        );
        for node in [near, far, other] {
            node.stop(Leave::Away).await;
        }
    });
}

/// Waits until the node does nothing by itself.
async fn await_quiet(node: &Node) {
    const QUIET: Duration = Duration::from_millis(500);
    let mut events = node.events().follow();
    while tokio::time::timeout(QUIET, events.next()).await.is_ok() {}
}

/// Less than a stop takes that waits for a peer's receipt of its resignation.
const STOPPED_AT_ONCE: Duration = Duration::from_secs(2);
/// Number of stops of which one must be fast. Only a busy machine delays some of them, and a wait
/// for peers delays all.
const STOPS: usize = 10;

#[apply(promise)]
fn a_node_without_peers_stops_at_once() {
    within_limit(async {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        for (name, leave) in [("away", Leave::Away), ("gone", Leave::Final)] {
            let mut is_fast = false;
            for round in 0..STOPS {
                let name = format!("{name}-{round}");
                let node = builder(folder.path(), &name).start().await.unwrap();
                await_quiet(&node).await;
                let begun = Instant::now();
                let problems = node.stop(leave).await;
                assert!(problems.is_empty(), "{name}: {problems:?}");
                is_fast = begun.elapsed() < STOPPED_AT_ONCE;
                if is_fast {
                    break;
                }
            }
            assert!(is_fast, "{name} waits for peers");
        }
    });
}

#[apply(promise)]
fn a_stop_for_good_returns_that_the_resignation_could_not_be_stored() {
    within_limit(async {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("one");
        let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let node = Node::builder("one".parse().unwrap(), &dir).listen(anywhere);
        let node = node.cache(64 << 20, 0).lan(false).start().await.unwrap();
        // The file of the members cannot be replaced while a directory has its name.
        let members = dir.join("state/members");
        fs::remove_file(&members).unwrap();
        fs::create_dir(&members).unwrap();
        let problems = node.stop(Leave::Final).await;
        let is_of_file = |it: &NodeError| matches!(it, NodeError::Trust(TrustError::File { .. }));
        assert!(
            matches!(&problems[..], [StopProblem::NotResigned(why)] if is_of_file(why)),
            "{problems:?}"
        );
    });
}

/// Starts a node at `dir` with the share of node `one`, and waits until all files are listed.
async fn start_with_share(folder: &Path, dir: &Path) -> Node {
    let node = Node::builder("one".parse().unwrap(), dir).secret_file(folder.join("secret"));
    let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let node = node.listen(anywhere).cache(64 << 20, 0).lan(false);
    let node = node.share(folder.join("one-share")).start().await.unwrap();
    let shares = node.shares().clone();
    let listed = move || {
        eventually("the share is listed", HANG_LIMIT, || {
            let shares = shares.list();
            shares
                .iter()
                .all(|it| it.state == ShareProgress::Ready && it.totals.files == 1)
        });
    };
    tokio::task::spawn_blocking(listed).await.unwrap();
    node
}

#[apply(promise)]
fn what_changed_last_is_stored_when_a_stop_ends() {
    within_limit(async {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        set_mode(folder, 0o755);
        let _dirs = builder(folder, "one");
        let file = folder.join("one-share/file");
        fs::write(&file, noise(1, MIB)).unwrap();
        set_mode(&file, 0o644);
        // The hash of a file that changed just before it was read is not used after a start, by its
        // mtime or by its ctime.
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let opened = fs::File::options().write(true).open(&file).unwrap();
        opened.set_modified(hour_ago).unwrap();
        drop(opened);
        let changed = fs::metadata(&file).unwrap().ctime();
        let at_rest = move || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.unwrap().as_secs() as i64 > changed + 3
        };
        let wait = move || eventually("the file is at rest", HANG_LIMIT, at_rest);
        tokio::task::spawn_blocking(wait).await.unwrap();
        let node = start_with_share(folder, &folder.join("one")).await;
        assert!(node.shares().hashed_bytes() >= MIB as u64);
        node.stop(Leave::Away).await;
        // The node still exists, so only what the stop stored is on the disk.
        let mut copy = Command::new("cp");
        copy.arg("-a")
            .args([folder.join("one"), folder.join("copy")]);
        assert!(copy.status().unwrap().success());
        drop(node);
        let again = start_with_share(folder, &folder.join("copy")).await;
        assert_eq!(again.shares().hashed_bytes(), 0);
        again.stop(Leave::Away).await;
    });
}
