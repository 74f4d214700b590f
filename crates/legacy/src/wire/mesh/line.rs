//! The lines of the mesh protocol: [`Hello`] is the first of a connection, [`Line`] any other.

use std::net::SocketAddrV4;

use crate::wire::discovery::MemberName;

/// Maximum entries that are used from one list. The original programs list at most ten peers and
/// five other addresses. A p2pfs node lists its connected peers, at most 20 by default.
pub const LISTED_MAX: usize = 64;
/// Maximum length of a chat text. A longer one is truncated.
pub const CHAT_MAX_BYTES: usize = 4096;
/// Maximum length of a peer's ID: twice that of the original programs.
pub const ID_MAX_BYTES: usize = 64;
/// Maximum length of a peer's name. A longer one is truncated.
pub const PEER_NAME_MAX_BYTES: usize = 128;

/// Requests a [`PONG`].
pub const PING: &[u8] = b"PING\n";
/// Answers a [`PING`].
pub const PONG: &[u8] = b"PONG\n";
/// Requests addresses.
pub const REQUEST_PEERS: &[u8] = b"REQUEST_PEERS\n";
/// Rejects a peer with an ID that is already connected.
pub const DUPLICATE: &[u8] = b"DUPLICATE\n";
/// Rejects a peer because the maximum number of peers is connected.
pub const MAX_PEERS: &[u8] = b"MAX_PEERS\n";

const PEERS: &[u8] = b"PEERS:";
const LISTEN: &[u8] = b"LISTEN:";
pub(super) const BYTES: &[u8] = b"BYTES:";

/// A parsed line other than the first of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A request for [`PONG`].
    Ping,
    /// The answer to a ping.
    Pong,
    /// A request for [`Line::Peers`]. A node that has nothing to list does not answer.
    RequestPeers,
    /// Addresses of other peers.
    Peers {
        /// Entries that can be dialled, in order, at most [`LISTED_MAX`].
        addresses: Vec<MemberName>,
        /// Number of invalid entries.
        garbage: usize,
        /// Number of valid entries beyond the limit.
        over: usize,
    },
    /// A `LISTEN` line. As the second line of a connection it states where the sender listens. Any
    /// later one is a chat message.
    Listen {
        /// Port of the address; `None` if it is not valid. The host is ignored.
        port: Option<u16>,
        /// Text of the whole line.
        text: String,
    },
    /// A chat message of at most [`CHAT_MAX_BYTES`], with any characters.
    Chat(String),
}

/// The first line of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// The identity of the peer.
    Peer {
        /// Letters, digits, `-`, `_` and `.`; at most [`ID_MAX_BYTES`].
        id: String,
        /// Display name, or the ID if none was given; at most [`PEER_NAME_MAX_BYTES`].
        name: String,
    },
    /// Rejection: the peer already has a connection with the ID of this node.
    Duplicate,
    /// Rejection: the peer has as many peers as it accepts.
    MaxPeers,
}

impl Hello {
    /// Parses a first line. Returns `None` if it belongs to another protocol.
    pub fn parse(line: &[u8]) -> Option<Self> {
        match line {
            b"DUPLICATE" => return Some(Self::Duplicate),
            b"MAX_PEERS" => return Some(Self::MaxPeers),
            _ => {}
        }
        let end = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let id = std::str::from_utf8(&line[..end]).ok()?;
        let is_id = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if id.is_empty() || id.len() > ID_MAX_BYTES || !id.bytes().all(is_id) {
            return None;
        }
        let name = text_of(line.get(end + 1..).unwrap_or_default(), PEER_NAME_MAX_BYTES);
        let name = if name.is_empty() { id.to_owned() } else { name };
        Some(Self::Peer {
            id: id.to_owned(),
            name,
        })
    }
}

impl Line {
    /// Parses a line from which the caller removed the line end and surrounding blanks. Every line
    /// is valid: an unknown one is a chat message.
    pub fn parse(line: &[u8]) -> Self {
        match line {
            b"PING" => Self::Ping,
            b"PONG" => Self::Pong,
            b"REQUEST_PEERS" => Self::RequestPeers,
            _ => {
                if let Some(list) = line.strip_prefix(PEERS) {
                    return Self::peers(list);
                }
                let text = text_of(line, CHAT_MAX_BYTES);
                match line.strip_prefix(LISTEN) {
                    Some(address) => Self::Listen {
                        port: port_of(address),
                        text,
                    },
                    None => Self::Chat(text),
                }
            }
        }
    }

    fn peers(list: &[u8]) -> Self {
        let (mut addresses, mut garbage, mut over) = (Vec::new(), 0, 0);
        for entry in list.split(|b| *b == b',') {
            let entry = entry.trim_ascii();
            match MemberName::parse(entry) {
                _ if entry.is_empty() => {}
                None => garbage += 1,
                Some(_) if addresses.len() >= LISTED_MAX => over += 1,
                Some(address) => addresses.push(address),
            }
        }
        Self::Peers {
            addresses,
            garbage,
            over,
        }
    }
}

fn port_of(address: &[u8]) -> Option<u16> {
    let port = address.trim_ascii().rsplit(|b| *b == b':').next()?;
    let digits = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    let port: u16 = std::str::from_utf8(port).ok()?.parse().ok()?;
    (digits && port != 0).then_some(port)
}

/// Returns the bytes as text of at most `most` bytes, truncated at a character boundary.
fn text_of(bytes: &[u8], most: usize) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned();
    text.truncate(text.floor_char_boundary(most));
    text
}

/// Encodes the identity of this node.
pub fn encode_hello(id: &str, name: &str) -> Vec<u8> {
    format!("{id}:{name}\n").into_bytes()
}

/// Encodes the address at which this node can be dialled.
pub fn encode_listen(at: SocketAddrV4) -> Vec<u8> {
    format!("LISTEN:{at}\n").into_bytes()
}

/// Encodes a list of at most [`LISTED_MAX`] addresses. Returns `None` for an empty list, which the
/// original programs do not send either.
pub fn encode_peers(addresses: &[SocketAddrV4]) -> Option<Vec<u8>> {
    let listed = addresses.iter().take(LISTED_MAX);
    let listed: Vec<String> = listed.map(ToString::to_string).collect();
    (!listed.is_empty()).then(|| format!("PEERS:{}\n", listed.join(",")).into_bytes())
}

/// Encodes a chat message as a single line, truncated at [`CHAT_MAX_BYTES`]. Control characters
/// become blanks. A text that a peer would read as a message of the protocol gets a backslash in
/// front. Returns `None` if the text is blank.
pub fn encode_chat(text: &str) -> Option<Vec<u8>> {
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let said = plain.trim();
    let said = &said[..said.floor_char_boundary(CHAT_MAX_BYTES)];
    let is_keyword = matches!(said, "DUPLICATE" | "MAX_PEERS")
        || said.as_bytes().starts_with(BYTES)
        || !matches!(Line::parse(said.as_bytes()), Line::Chat(_));
    let escape = if is_keyword { "\\" } else { "" };
    (!said.is_empty()).then(|| format!("{escape}{said}\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(line: &[u8]) -> (Vec<String>, usize, usize) {
        match Line::parse(line) {
            Line::Peers {
                addresses,
                garbage,
                over,
            } => (
                addresses.iter().map(ToString::to_string).collect(),
                garbage,
                over,
            ),
            other => panic!("{other:?}"),
        }
    }

    fn chat(text: &str) -> Line {
        Line::Chat(text.to_owned())
    }

    #[test]
    fn messages_are_byte_for_byte_those_of_the_old_programs() {
        let at = |text: &str| text.parse().unwrap();
        assert_eq!(encode_hello("29ab", "alice"), b"29ab:alice\n");
        assert_eq!(
            encode_listen(at("10.0.0.2:18002")),
            b"LISTEN:10.0.0.2:18002\n"
        );
        let two = [at("127.0.0.1:18001"), at("10.0.0.3:1")];
        let list = encode_peers(&two).unwrap();
        assert_eq!(list, b"PEERS:127.0.0.1:18001,10.0.0.3:1\n");
        assert_eq!(encode_peers(&[]), None);
        assert_eq!(encode_chat("hello all").unwrap(), b"hello all\n");
    }

    #[test]
    fn a_first_line_is_split_at_its_first_colon() {
        let peer = |id: &str, name: &str| Hello::Peer {
            id: id.to_owned(),
            name: name.to_owned(),
        };
        assert_eq!(Hello::parse(b"29ab:alice"), Some(peer("29ab", "alice")));
        assert_eq!(Hello::parse(b"29ab:a:b"), Some(peer("29ab", "a:b")));
        assert_eq!(Hello::parse(b"29ab:"), Some(peer("29ab", "29ab")));
        assert_eq!(Hello::parse(b"29ab"), Some(peer("29ab", "29ab")));
        assert_eq!(Hello::parse(b"DUPLICATE"), Some(Hello::Duplicate));
        assert_eq!(Hello::parse(b"MAX_PEERS"), Some(Hello::MaxPeers));
        for other in [
            &b""[..],
            b":bob",
            b"GET / HTTP/1.1",
            b"\x16\x03\x01",
            b"a b:c",
        ] {
            assert_eq!(Hello::parse(other), None, "{}", other.escape_ascii());
        }
        let long = [b"a:".as_slice(), "ü".repeat(100).as_bytes()].concat();
        let Some(Hello::Peer { name, .. }) = Hello::parse(&long) else {
            panic!("refused");
        };
        assert!(name.len() <= PEER_NAME_MAX_BYTES && name.starts_with('ü'));
    }

    #[test]
    fn keywords_are_whole_lines_and_all_else_is_talk() {
        assert_eq!(Line::parse(b"PING"), Line::Ping);
        assert_eq!(Line::parse(b"PONG"), Line::Pong);
        assert_eq!(Line::parse(b"REQUEST_PEERS"), Line::RequestPeers);
        for text in ["", "ping", "PING 1", "DUPLICATE", "MAX_PEERS", "PEERS"] {
            assert_eq!(Line::parse(text.as_bytes()), chat(text));
        }
        let listen = |text: &str| match Line::parse(text.as_bytes()) {
            Line::Listen { port, .. } => port,
            other => panic!("{other:?}"),
        };
        assert_eq!(listen("LISTEN:localhost:18002"), Some(18002));
        assert_eq!(listen("LISTEN:[::1]:7"), Some(7));
        assert_eq!(listen("LISTEN:x"), None);
        assert_eq!(listen("LISTEN:localhost:0"), None);
        assert_eq!(listen("LISTEN:localhost:+5"), None);
    }

    #[test]
    fn the_valid_entries_of_a_mixed_list_are_used() {
        let (good, garbage, over) =
            listed(b"PEERS: localhost:18002 ,127.0.0.1:18001,nocolon,[::1]:5,,a:0");
        assert_eq!(good, ["localhost:18002", "127.0.0.1:18001"]);
        assert_eq!((garbage, over), (3, 0));
        let many: Vec<String> = (0..10_000).map(|n| format!("10.0.0.1:{}", n + 1)).collect();
        let (good, garbage, over) = listed(format!("PEERS:{}", many.join(",")).as_bytes());
        assert_eq!((good.len(), garbage, over), (LISTED_MAX, 0, 10_000 - 64));
    }

    #[test]
    fn talk_is_one_line_and_cannot_inject_a_message() {
        assert_eq!(encode_chat(" a\nb\r\x1b[m ").unwrap(), b"a b  [m\n");
        for keyword in [
            "PING",
            "PONG",
            "REQUEST_PEERS",
            "PEERS:x",
            "BYTES:3",
            "LISTEN:x",
        ] {
            let said = encode_chat(keyword).unwrap();
            assert_eq!(said, format!("\\{keyword}\n").as_bytes());
        }
        assert_eq!(encode_chat(" \n\t"), None);
    }

    #[test]
    fn an_id_is_accepted_up_to_its_limit_and_names_and_talk_are_truncated() {
        let hello = |id: usize, name: usize| {
            let line = format!("{}:{}", "i".repeat(id), "n".repeat(name));
            match Hello::parse(line.as_bytes()) {
                Some(Hello::Peer { id, name }) => Some((id.len(), name.len())),
                _ => None,
            }
        };
        assert_eq!(hello(ID_MAX_BYTES - 1, 1), Some((ID_MAX_BYTES - 1, 1)));
        assert_eq!(hello(ID_MAX_BYTES, 1), Some((ID_MAX_BYTES, 1)));
        assert_eq!(hello(ID_MAX_BYTES + 1, 1), None);
        for more in [0, 1] {
            assert_eq!(
                hello(1, PEER_NAME_MAX_BYTES + more),
                Some((1, PEER_NAME_MAX_BYTES))
            );
        }
        assert_eq!(
            hello(1, PEER_NAME_MAX_BYTES - 1),
            Some((1, PEER_NAME_MAX_BYTES - 1))
        );
        for (length, kept) in [
            (CHAT_MAX_BYTES - 1, CHAT_MAX_BYTES - 1),
            (CHAT_MAX_BYTES, CHAT_MAX_BYTES),
            (CHAT_MAX_BYTES + 1, CHAT_MAX_BYTES),
        ] {
            let text = "t".repeat(length);
            let heard = Line::parse(text.as_bytes());
            assert_eq!(heard, Line::Chat("t".repeat(kept)));
            assert_eq!(encode_chat(&text).map(|said| said.len()), Some(kept + 1));
        }
    }

    #[test]
    fn a_list_is_read_up_to_its_limit_and_the_rest_is_counted() {
        for (count, kept) in [
            (LISTED_MAX - 1, LISTED_MAX - 1),
            (LISTED_MAX, LISTED_MAX),
            (LISTED_MAX + 1, LISTED_MAX),
        ] {
            let (addresses, garbage, over) =
                listed(format!("PEERS:{}", vec!["10.0.0.1:1"; count].join(",")).as_bytes());
            assert_eq!((addresses.len(), garbage, over), (kept, 0, count - kept));
        }
    }

    proptest! {
        #[test]
        fn no_input_breaks_the_line_parser(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let _any = Hello::parse(&bytes);
            let _any = Line::parse(&bytes);
            let list = [&b"PEERS:"[..], &bytes].concat();
            prop_assert!(listed(&list).0.len() <= LISTED_MAX);
        }

        #[test]
        fn a_spoken_line_arrives_as_talk(text in ".{0,200}") {
            if let Some(line) = encode_chat(&text) {
                let (end, line) = line.split_last().unwrap();
                prop_assert_eq!(*end, b'\n');
                prop_assert!(!line.contains(&b'\n'));
                prop_assert!(matches!(Line::parse(line.trim_ascii()), Line::Chat(_)));
            }
        }
    }
}
