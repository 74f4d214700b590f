//! Messages of the older mesh program.

use std::path::Path;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::super::text::{escape, printable};
use crate::daemon::control::{Event, EventKind, MeshInfo, MeshPeerInfo, PushInfo, SendDone};
use p2pfs_types::id::NodeName;

/// Formats a line of the older program with its time and subject.
fn line(at: Timestamp, about: &str, text: &str) -> String {
    format!("[{}] [{about}] {text}", clock(at))
}

fn clock(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system())
        .strftime("%H:%M:%S")
        .to_string()
}

pub(super) fn listening(name: Option<&NodeName>, info: &MeshInfo) -> String {
    let port = info.address.rsplit(':').next().unwrap_or_default();
    let name = name.map_or("p2pfs", NodeName::as_str);
    let text = format!("Node {name} listening on port {port}");
    line(Timestamp::now(), "SYSTEM", &text)
}

pub(super) fn error(why: &str) -> String {
    line(Timestamp::now(), "ERROR", &printable(why))
}

pub(super) fn sent(path: &Path, done: &SendDone) -> String {
    let name = escape(path.as_os_str().as_encoded_bytes());
    let (size, count) = (done.size_bytes, done.taken.len());
    let text = format!("Sent {name} ({size} bytes) to {count} peers");
    line(Timestamp::now(), "FILE", &text)
}

pub(super) fn peers(info: &MeshInfo) -> Vec<String> {
    let (count, most) = (info.peers.len(), info.max_peers);
    let mut lines = vec![format!("[STATUS] Connected Peers ({count}/{most}):")];
    for peer in &info.peers {
        let (name, address) = (printable(&peer.name), printable(&peer.address));
        let seen = clock(peer.last_heard);
        lines.push(format!("  {name} ({address}) - last seen: {seen}"));
    }
    let known = info.peers.len() + info.known.len();
    lines.push(format!("[STATUS] Known Peers ({known}):"));
    for peer in &info.peers {
        let (address, seen) = (printable(&peer.address), clock(peer.last_heard));
        lines.push(format!("  {address} (connected) - {seen}"));
    }
    for address in &info.known {
        lines.push(format!("  {} (discovered)", printable(address)));
    }
    lines
}

/// Formats an event. `seed` is the peer of the command line. `info` is called only if the message
/// needs it.
pub(super) fn event(event: &Event, seed: Option<&str>, info: impl Fn() -> MeshInfo) -> Vec<String> {
    let told = |about: &str, text: String| vec![line(event.time, about, &text)];
    match &event.what {
        EventKind::MeshUp(peer) => up(event.time, peer, seed, &info()),
        EventKind::MeshDown(peer) => match &peer.why {
            // A peer that never connected has no name except its address.
            Some(why) if peer.peer == peer.address => {
                let (address, why) = (printable(&peer.address), printable(why));
                told("ERROR", format!("Failed to connect to {address}: {why}"))
            }
            _ => told(
                "NETWORK",
                format!("Peer [{}] disconnected", printable(&peer.peer)),
            ),
        },
        EventKind::MeshLearned { peer, count } => {
            let info = info();
            let by_name = info.peers.iter().find(|seen| seen.name == *peer);
            let id = by_name.map_or(peer.as_str(), |seen| &seen.id);
            let total = info.peers.len() + info.known.len();
            let text = format!(
                "Found {count} peers via {} (total known: {total})",
                printable(id)
            );
            told("DISCOVERY", text)
        }
        EventKind::Chat { peer, text } => told(&printable(peer), printable(text)),
        EventKind::Bytes { peer, size_bytes } => told(
            &printable(peer),
            format!("<binary data: {size_bytes} bytes>"),
        ),
        EventKind::ReceiveStarted(push) => told(
            "FILE",
            format!("{} is sending {}", printable(&push.peer), file(push)),
        ),
        EventKind::ReceiveDone(push) => {
            let name = escape(push.name.as_bytes());
            let (peer, file) = (printable(&push.peer), file(push));
            told(
                "FILE",
                format!("{peer} sent file: {file} -> downloads/{name}"),
            )
        }
        EventKind::ReceiveFailed(push) => {
            let why = printable(push.why.as_deref().unwrap_or_default());
            let (peer, file) = (printable(&push.peer), file(push));
            told("ERROR", format!("{file} from {peer} did not arrive: {why}"))
        }
        _ => Vec::new(),
    }
}

fn file(push: &PushInfo) -> String {
    format!(
        "{} ({} bytes)",
        escape(push.name.as_bytes()),
        push.size_bytes
    )
}

fn up(at: Timestamp, peer: &MeshPeerInfo, seed: Option<&str>, info: &MeshInfo) -> Vec<String> {
    let (name, address) = (printable(&peer.peer), printable(&peer.address));
    let count = format!("({}/{} peers)", info.peers.len(), info.max_peers);
    if !peer.dialled {
        let text = format!("Peer [{name}] connected from {address} {count}");
        return vec![line(at, "NETWORK", &text)];
    }
    let text = format!("Connected to peer [{name}] at {address} {count}");
    let mut lines = vec![line(at, "NETWORK", &text)];
    if seed == Some(&peer.address) {
        let text = format!("Connected to seed node {address}");
        lines.push(line(at, "BOOTSTRAP", &text));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::{MeshPeerSeen, Named};

    fn told(what: EventKind) -> Vec<String> {
        let event = Event {
            time: Timestamp::UNIX_EPOCH,
            what,
        };
        let info = MeshInfo {
            max_peers: 10,
            peers: vec![MeshPeerSeen {
                name: "bob".to_owned(),
                id: "b7".to_owned(),
                address: "127.0.0.1:18002".to_owned(),
                last_heard: Timestamp::UNIX_EPOCH,
            }],
            known: vec!["10.0.0.9:1".to_owned()],
            ..MeshInfo::default()
        };
        let lines = super::event(&event, Some("127.0.0.1:18002"), || info.clone());
        let bare = |line: &String| line.split_once("] ").unwrap().1.to_owned();
        lines.iter().map(bare).collect()
    }

    fn peer(dialled: bool, why: Option<&str>) -> MeshPeerInfo {
        MeshPeerInfo {
            peer: "bob".to_owned(),
            address: "127.0.0.1:18002".to_owned(),
            dialled,
            why: why.map(str::to_owned),
        }
    }

    #[test]
    fn events_are_reported_in_the_words_of_the_older_program() {
        let from = "[NETWORK] Peer [bob] connected from 127.0.0.1:18002 (1/10 peers)";
        assert_eq!(told(EventKind::MeshUp(peer(false, None))), [from]);
        let to = "[NETWORK] Connected to peer [bob] at 127.0.0.1:18002 (1/10 peers)";
        let seed = "[BOOTSTRAP] Connected to seed node 127.0.0.1:18002";
        assert_eq!(told(EventKind::MeshUp(peer(true, None))), [to, seed]);
        let gone = "[NETWORK] Peer [bob] disconnected";
        assert_eq!(told(EventKind::MeshDown(peer(false, Some("x")))), [gone]);
        let chat = EventKind::Chat {
            peer: "bob".to_owned(),
            text: "hello\x1b".to_owned(),
        };
        assert_eq!(told(chat), ["[bob] hello\\u{1b}"]);
        let learned = EventKind::MeshLearned {
            peer: "bob".to_owned(),
            count: 1,
        };
        let found = "[DISCOVERY] Found 1 peers via b7 (total known: 2)";
        assert_eq!(told(learned), [found]);
        let push = PushInfo {
            peer: "bob".to_owned(),
            name: Named::new("test.txt"),
            size_bytes: 300,
            why: None,
        };
        let done = "[FILE] bob sent file: test.txt (300 bytes) -> downloads/test.txt";
        assert_eq!(told(EventKind::ReceiveDone(push)), [done]);
    }
}
