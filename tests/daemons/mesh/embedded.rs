//! A program that embeds a node and sends by both protocols: `examples/chat.rs`, and the promises
//! of the interface.

use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use macro_rules_attribute::apply;
use p2pfs_legacy::LegacyPeers;
use p2pfs_node::api::MESSAGE_MAX_BYTES;
use p2pfs_node::{Leave, News, Node, SendError};
use tokio::runtime::Runtime;

use super::{BOB, names_in};
use crate::support::content::noise;
use crate::support::daemon::set_mode;
use crate::support::mesh_peer::{Came, MeshPeer};
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, promise};

#[allow(unreachable_pub, reason = "the file is also a program of its own")]
#[path = "../../../examples/chat.rs"]
#[allow(dead_code, reason = "its main is not run here")]
mod chat;

const NEEDS: &[Need] = &[];

/// Two nodes of one cluster in this process, and a legacy peer connected to the first.
struct Room {
    folder: tempfile::TempDir,
    alice: Node,
    bob: Node,
    old: MeshPeer,
    /// Lines at the first node's prompt.
    shown: Mutex<Vec<String>>,
}

async fn start(folder: &Path, name: &str, seed: Option<&Node>) -> Node {
    let secret = folder.join("secret");
    fs::write(&secret, format!("{}\n", "7b".repeat(32))).unwrap();
    set_mode(&secret, 0o600);
    let anywhere: SocketAddrV4 = "127.0.0.1:0".parse().unwrap();
    let node = chat::builder(&folder.join(name), name, anywhere, &[]).unwrap();
    let node = node.secret_file(secret);
    let node = match seed {
        Some(seed) => node.seed(seed.address()),
        None => node,
    };
    node.start().await.unwrap()
}

impl Room {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let alice = start(folder.path(), "alice", None).await;
        let mesh = LegacyPeers::of_node(&alice)
            .unwrap()
            .mesh()
            .unwrap()
            .address()
            .to_string();
        let old = MeshPeer::dial(&mesh, BOB, "old", 18002);
        let bob = start(folder.path(), "bob", Some(&alice)).await;
        let room = Self {
            folder,
            alice,
            bob,
            old,
            shown: Mutex::default(),
        };
        // Each is addressed and mentioned by its name once the name is known.
        let mut again = tokio::time::interval(Duration::from_millis(20));
        for (node, name) in [
            (&room.alice, "bob"),
            (&room.alice, "old"),
            (&room.bob, "alice"),
        ] {
            let to = [name.to_owned()];
            while node.messenger().send_bytes("".into(), &to).await.is_err() {
                again.tick().await;
            }
        }
        room
    }

    /// Types a line at the first node's prompt and returns the output.
    async fn types(&self, line: &str) -> Vec<String> {
        let tell = |line| self.shown.lock().unwrap().push(line);
        let goes_on = chat::obey(&self.alice, line, &tell).await.unwrap();
        assert!(goes_on);
        let mut shown = std::mem::take(&mut *self.shown.lock().unwrap());
        shown.sort();
        shown
    }

    async fn close(self) {
        tokio::join!(self.alice.stop(Leave::Away), self.bob.stop(Leave::Away));
    }
}

/// Runs a test to its end, or fails at the limit of all tests.
fn within_limit(test: impl Future<Output = ()>) {
    let runtime = Runtime::new().unwrap();
    runtime
        .block_on(async { tokio::time::timeout(HANG_LIMIT, test).await })
        .expect("it has hung");
    runtime.shutdown_timeout(Duration::from_secs(10));
}

async fn next_news(node: &Node, wanted: impl Fn(&News) -> bool) -> News {
    let mut events = node.events().follow();
    loop {
        let news = events.next().await.expect("the node runs").news;
        if wanted(&news) {
            return news;
        }
    }
}

#[apply(promise)]
fn the_chat_example_talks_and_sends_bytes_and_files_on_both_planes() {
    within_limit(async {
        let room = Room::open().await;
        assert_eq!(room.types("hello all").await, ["heard by 2 of the others"]);
        let heard = next_news(&room.bob, |news| matches!(news, News::Chat { .. })).await;
        let (from, text) = ("alice".to_owned(), "hello all".to_owned());
        assert_eq!(heard, News::Chat { from, text });
        let mut of_bob = room.bob.messenger().messages();
        let both = ["bob has its 3 bytes", "old was sent its 3 bytes"];
        assert_eq!(room.types("/bytes raw").await, both);
        let message = of_bob.next().await.unwrap();
        assert_eq!((&*message.from, &message.bytes[..]), ("alice", &b"raw"[..]));
        let mut of_alice = room.alice.messenger().messages();
        room.old.send_bytes(b"\x00\n\xff");
        let message = of_alice.next().await.unwrap();
        assert_eq!(
            (&*message.from, &message.bytes[..]),
            ("old", &b"\x00\n\xff"[..])
        );
        let bytes = noise(1, 3_000_000);
        let file = room.folder.path().join("gift.bin");
        fs::write(&file, &bytes).unwrap();
        let shown = room.types(&format!("/send {}", file.display())).await;
        let both = [
            "bob has its 3000000 bytes",
            "old was sent its 3000000 bytes",
        ];
        assert_eq!(shown, both);
        let got = room.folder.path().join("bob/inbox/gift.bin");
        assert!(fs::read(got).unwrap() == bytes);
        let came = |wanted: &Came| room.old.came().contains(wanted);
        eventually("the legacy peer heard it too", HANG_LIMIT, || {
            came(&Came::Line("hello all".into())) && came(&Came::Bytes(b"raw".into()))
        });
        assert_eq!(room.types("/peers").await, ["old at 127.0.0.1:18002"]);
        room.close().await;
    });
}

#[apply(promise)]
fn an_open_file_goes_to_the_named_receivers_whatever_its_path_becomes() {
    within_limit(async {
        let room = Room::open().await;
        let path = room.folder.path().join("gone");
        fs::write(&path, b"hello").unwrap();
        let file = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let to = ["bob".to_owned()];
        let sent = room
            .alice
            .messenger()
            .send_open_file(file, b"../dir/given", &to)
            .await;
        let sent = sent.unwrap();
        assert_eq!(sent.size_bytes(), 5);
        let sent = sent.finish().await;
        assert_eq!((sent.len(), &*sent[0].peer), (1, "bob"));
        assert!(sent[0].confirmed && sent[0].outcome.is_ok());
        let inbox = room.folder.path().join("bob/inbox");
        assert_eq!(names_in(&inbox), ["given"]);
        assert!(room.old.files().is_empty());
        // The file is shared by its node like any other.
        let path = p2pfs_types::path::SharedPath::new(&b"given"[..]).unwrap();
        room.alice.names().wait_for(&path).await.unwrap();
        room.close().await;
    });
}

#[apply(promise)]
fn an_unsendable_file_is_refused_before_any_receiver_gets_anything() {
    within_limit(async {
        let room = Room::open().await;
        let send = |bytes: Vec<u8>, to: &str| {
            let (alice, to) = (&room.alice, [to.to_owned()]);
            async move {
                alice
                    .messenger()
                    .send_bytes(bytes.into(), &to)
                    .await
                    .map(drop)
            }
        };
        let long = send(vec![0; MESSAGE_MAX_BYTES + 1], "old").await;
        assert!(matches!(long, Err(SendError::TooLong { .. })));
        let file = send(b"FILESTART:x|0|00\n".to_vec(), "old").await;
        assert!(matches!(file, Err(SendError::Reserved)));
        let nobody = send(b"x".to_vec(), "nobody").await;
        assert!(matches!(nobody, Err(SendError::Unknown { name }) if name == "nobody"));
        let missing = room
            .alice
            .messenger()
            .send_file("/nowhere/at/all", &[])
            .await;
        assert!(matches!(missing, Err(SendError::Unreadable(_))));
        let full = send(vec![7; MESSAGE_MAX_BYTES], "bob").await;
        assert!(full.is_ok());
        room.close().await;
    });
}
