//! Edge cases of a push: names of any bytes in both directions, cuts at every part of a message,
//! peers that leave in the middle, and many concurrent peers.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use macro_rules_attribute::apply;

use super::{ARRIVING, BOB, EVE, MeshNode, names_in};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::mesh_peer::{Came, MeshPeer, sha256};
use crate::support::process::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

/// Returns names that a local file can have and a message cannot carry unchanged, each with the
/// name that is sent.
fn names() -> Vec<(Vec<u8>, String)> {
    let long = "n".repeat(251);
    vec![
        (b"a|b.txt".to_vec(), "a_b.txt".into()),
        (b"two\nlines".to_vec(), "two_lines".into()),
        (b"back\\slash".to_vec(), "back_slash".into()),
        (b"..hidden".to_vec(), "..hidden".into()),
        (b" blanks ".to_vec(), " blanks ".into()),
        (
            format!("{long}.txt").into_bytes(),
            format!("{}.txt", "n".repeat(240)),
        ),
    ]
}

#[apply(promise)]
fn names_of_any_bytes_arrive_at_mesh_peers_and_inboxes_as_valid_names() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let inbox = cluster.folder.path().join("open-inbox");
    let open = cluster.start_with(NodeOptions {
        mounted: false,
        config: format!(
            "[mount]\nenabled = false\n[inbox]\ndir = {inbox:?}\nfrom = ['*']\nfloor = '0B'\n"
        ),
        ..NodeOptions::new("open")
    });
    lab.node
        .cli(&["wait", "--peers", "1", "--timeout", WAIT_LIMIT])
        .expect_ok();
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    eventually("bob is a peer", HANG_LIMIT, || lab.peers() == ["bob"]);
    let folder = cluster.folder.path().join("mine");
    fs::create_dir_all(&folder).unwrap();
    for (name, _) in names() {
        fs::write(folder.join(OsStr::from_bytes(&name)), &name).unwrap();
    }
    let unprintable = folder.join(OsStr::from_bytes(b"\xff\xfe"));
    fs::write(&unprintable, b"bytes").unwrap();
    let sent = lab
        .node
        .cli(&["send", folder.to_str().unwrap()])
        .expect_ok();
    assert!(sent.contains("two\\nlines"), "{sent}");
    eventually("bob has all", HANG_LIMIT, || {
        bob.files().len() == names().len() + 1
    });
    for (name, as_sent) in names() {
        let files = bob.files();
        let whole = files.iter().find(|(got, _)| *got == as_sent);
        assert_eq!(whole.unwrap_or_else(|| panic!("{as_sent}")).1, name);
        let kept = fs::read(inbox.join(&as_sent));
        assert_eq!(kept.unwrap_or_else(|e| panic!("{as_sent}: {e}")), name);
    }
    assert!(inbox.join(OsStr::from_bytes(b"\xff\xfe")).exists());
    open.wait_for_file("two_lines");
}

#[apply(promise)]
fn names_that_lead_elsewhere_are_stored_as_names_or_refused() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    let hash = sha256(b"x");
    for bad in [&b".."[..], b".", b"", b"/", b"a/..", b"a\nb"] {
        bob.push(bad, b"x", 9);
    }
    // Text after a line end does not belong to a field.
    bob.send_bytes(format!("FILESTART:a\nb|1|{hash}\n").as_bytes());
    lab.await_offence("bob", "means nothing");
    let good: [(&[u8], &str); 5] = [
        (b"/etc/passwd", "passwd"),
        (b"..\\..\\up", "up"),
        (b"tab\there", "tab_here"),
        (b".p2pfs", "_p2pfs"),
        (ARRIVING.as_bytes(), "_p2pfs-arriving"),
    ];
    for (name, _) in good {
        bob.push(name, b"x", 9);
    }
    eventually("the good ones are there", HANG_LIMIT, || {
        lab.received().len() == good.len()
    });
    for (_, kept) in good {
        assert!(lab.inbox.join(kept).is_file(), "{kept}");
    }
    assert!(lab.peers().contains(&"bob".to_owned()));
}

/// Returns all bytes of a push with one chunk.
fn stream(name: &str, bytes: &[u8]) -> Vec<u8> {
    let hash = sha256(bytes);
    let messages = [
        format!("FILESTART:{name}|{}|{hash}\n", bytes.len()).into_bytes(),
        [format!("FILECHUNK:{name}\n").as_bytes(), bytes].concat(),
        format!("FILEEND:{name}|{hash}\n").into_bytes(),
    ];
    let framed = messages
        .iter()
        .map(|message| [format!("BYTES:{}\n", message.len()).as_bytes(), message].concat());
    framed.collect::<Vec<_>>().concat()
}

#[apply(promise)]
fn a_push_interrupted_anywhere_leaves_nothing() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let bytes = noise(8, 300_000);
    let whole = stream("cut", &bytes);
    let start = whole.windows(4).position(|it| it == b"BYTE").unwrap() + 9;
    let chunk = whole.windows(9).position(|it| it == b"FILECHUNK").unwrap();
    let cuts = [
        1,
        start,
        start + 30,
        chunk - 5,
        chunk,
        chunk + 5,
        chunk + 15,
        chunk + 100_000,
        whole.len() - 80,
        whole.len() - 1,
    ];
    for (number, cut) in cuts.into_iter().enumerate() {
        let id = format!("{number:032}");
        let cutter = MeshPeer::dial(&lab.mesh, &id, "cutter", 18009);
        eventually("it is a peer", HANG_LIMIT, || lab.peers() == ["cutter"]);
        cutter.send(&whole[..cut]);
        drop(cutter);
        eventually("it is gone", HANG_LIMIT, || lab.peers().is_empty());
    }
    assert!(lab.received().is_empty(), "{:?}", lab.received());
    assert!(!lab.inbox.join(ARRIVING).exists());
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    bob.send(&whole);
    eventually("a whole one is there", HANG_LIMIT, || {
        lab.received() == ["cut"]
    });
    assert!(fs::read(lab.inbox.join("cut")).unwrap() == bytes);
}

#[apply(promise)]
fn a_peer_that_leaves_in_mid_file_is_named_and_the_others_get_it() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let (bob, eve) = lab.with_bob_and_eve();
    let file = cluster.folder.path().join("file");
    fs::write(&file, noise(9, 64 << 20)).unwrap();
    let sent = start(&mut lab.node.cli_command(&["send", file.to_str().unwrap()]));
    let has_begun = |came: &Came| matches!(came, Came::Bytes(_));
    eventually("it has begun", HANG_LIMIT, || {
        eve.came().iter().any(has_begun)
    });
    eve.close();
    let ended = sent.finish(HANG_LIMIT);
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.stderr.contains("eve did not take") && !ended.stderr.contains("bob did not"),
        "{}",
        ended.stderr
    );
    assert!(ended.text().contains("bob was sent"), "{}", ended.text());
    eventually("bob has it", HANG_LIMIT, || bob.files().len() == 1);
}

#[apply(promise)]
fn a_file_in_pieces_of_64_bytes_arrives_whole_and_later_lines_are_read() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let bob = MeshPeer::dial(&lab.mesh, BOB, "bob", 18002);
    let bytes = noise(10, 1 << 20);
    bob.push(b"small-pieces", &bytes, 64);
    bob.send(b"that was it\n");
    eventually("it is there", HANG_LIMIT, || {
        lab.received() == ["small-pieces"]
    });
    assert!(fs::read(lab.inbox.join("small-pieces")).unwrap() == bytes);
    eventually("the line is heard", HANG_LIMIT, || {
        lab.events("chat")
            .iter()
            .any(|it| it["text"] == "that was it")
    });
}

#[apply(promise)]
fn two_peers_can_push_files_of_one_name_at_once() {
    let mut cluster = Cluster::new();
    let lab = MeshNode::start(&mut cluster, "lab", &[], "");
    let (bob, eve) = (
        MeshPeer::dial(&lab.mesh, BOB, "bob", 18002),
        MeshPeer::dial(&lab.mesh, EVE, "eve", 18003),
    );
    let (of_bob, of_eve) = (noise(1, 900_000), noise(2, 900_000));
    for (peer, bytes) in [(&bob, &of_bob), (&eve, &of_eve)] {
        peer.begin(b"same.txt", bytes.len(), &sha256(bytes));
    }
    for at in 0..3 {
        for (peer, bytes) in [(&bob, &of_bob), (&eve, &of_eve)] {
            let part = &bytes[at * 300_000..(at + 1) * 300_000];
            peer.send_bytes(&[b"FILECHUNK:same.txt\n", part].concat());
        }
    }
    for peer in [&bob, &eve] {
        peer.send_bytes(b"FILEEND:same.txt\n");
    }
    eventually("both are there", HANG_LIMIT, || {
        names_in(&lab.inbox) == ["same-(1).txt", "same.txt"]
    });
    let kept = ["same.txt", "same-(1).txt"].map(|name| fs::read(lab.inbox.join(name)).unwrap());
    assert!(kept.contains(&of_bob) && kept.contains(&of_eve));
}
