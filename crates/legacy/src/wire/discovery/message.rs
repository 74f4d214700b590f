//! The three datagrams of the discovery protocol, `DISCOVER`, `Get` and `File`, as [`Datagram`].

use std::net::SocketAddrV4;

use super::address::MemberName;
use super::name::{Name, SEPARATOR, trim};
use p2pfs_proto::wire::WireError;

/// Maximum length of a datagram that this node sends. It fits an Ethernet frame, and the buffer of
/// 2048 bytes of the original programs. These truncate a longer list and gossip the truncated last
/// address.
pub const SENT_MAX_BYTES: usize = 1200;
/// Maximum length of a received datagram: all that UDP over IPv4 can carry. The original programs
/// send their whole list in one datagram, whatever its size.
pub const RECEIVED_MAX_BYTES: usize = 65_507;
/// Maximum entries that are used from one received list.
pub const LISTED_MAX: usize = 1024;

const DISCOVER: &[u8] = b"DISCOVER";
const GET: &[u8] = b"Get";
const FILE: &[u8] = b"File";
/// Number of the TCP transfer method.
const METHOD_TCP: i64 = 1;
/// Number of the UDP transfer method of some versions. This node cannot fetch from such a
/// responder and drops its answer.
const METHOD_UDP: i64 = 2;

/// A parsed datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Datagram {
    /// The sender's list of members.
    Discover {
        /// Entries that may be members, in order, at most [`LISTED_MAX`].
        members: Vec<MemberName>,
        /// Number of entries that are invalid or beyond [`LISTED_MAX`].
        garbage: usize,
    },
    /// The sender looks for a file.
    Get(Name),
    /// The sender has a file that this node requested. The datagram does not name the file.
    File {
        /// TCP port where it serves the file.
        port: u16,
    },
}

/// Returns whether a datagram belongs to this protocol and not to the native one, which shares the
/// UDP port. Text begins with a byte below 0x80, a native datagram with a higher one.
pub fn is_legacy_datagram(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(u8::is_ascii)
}

impl Datagram {
    /// Parses a datagram as leniently as the original programs.
    ///
    /// # Errors
    /// [`WireError`] if the datagram is too long, or its keyword, name, transfer method or
    /// port is not valid.
    pub fn decode(datagram: &[u8]) -> Result<Self, WireError> {
        if datagram.len() > RECEIVED_MAX_BYTES {
            return Err(WireError::TooLong {
                what: "a legacy datagram",
                length_bytes: datagram.len(),
                limit_bytes: RECEIVED_MAX_BYTES,
            });
        }
        let mut fields = fields_of(datagram);
        match fields.next() {
            Some(keyword) if keyword == DISCOVER => Ok(Self::discover(fields)),
            Some(keyword) if keyword == GET => {
                let name = fields.next().and_then(Name::from_field);
                name.map(Self::Get).ok_or(malformed("a legacy Get"))
            }
            Some(keyword) if keyword == FILE => Self::file(fields),
            _ => Err(malformed("a legacy datagram")),
        }
    }

    fn discover<'a>(entries: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut members = Vec::new();
        let mut garbage = 0;
        for entry in entries.filter(|entry| !entry.is_empty()) {
            match MemberName::parse(entry) {
                Some(member) if members.len() < LISTED_MAX => members.push(member),
                _ => garbage += 1,
            }
        }
        Self::Discover { members, garbage }
    }

    /// Parses the fields of a `File` answer: the TCP port alone, as the oldest versions send it, or
    /// the transfer method and the port.
    fn file<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Result<Self, WireError> {
        let broken = malformed("a legacy File");
        let first = fields.next().and_then(number).ok_or(broken.clone())?;
        let port = match fields.next() {
            None => first,
            Some(_) if first == METHOD_UDP => return Err(broken),
            Some(port) => number(port).ok_or(broken.clone())?,
        };
        match u16::try_from(port) {
            Ok(port) if port != 0 => Ok(Self::File { port }),
            _ => Err(broken),
        }
    }
}

/// Returns the fields of a message's first line. White space around the message is removed, white
/// space around a field is not.
pub(super) fn fields_of(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let line = trim(message).split(|b| *b == b'\n').next();
    line.unwrap_or_default().split(|b| *b == SEPARATOR)
}

/// Parses an integer as the original programs do: an optional sign, then digits.
pub(super) fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn malformed(what: &'static str) -> WireError {
    WireError::Malformed { what }
}

/// Encodes a request for a file.
pub fn encode_get(name: &Name) -> Vec<u8> {
    [GET, b",", name.as_bytes(), b"\n"].concat()
}

/// Encodes the answer that a file is available at this TCP port.
pub fn encode_file(port: u16) -> Vec<u8> {
    format!("File,{METHOD_TCP},{port}\n").into_bytes()
}

/// Encodes the member list in as many datagrams as needed. Each datagram starts with `own`, the
/// address of this node, because the original programs ignore the source address of a datagram.
pub fn encode_lists(own: SocketAddrV4, members: &[SocketAddrV4]) -> Vec<Vec<u8>> {
    let begin = format!("DISCOVER,{own}");
    let mut lists = Vec::new();
    let mut list = begin.clone();
    for member in members {
        let entry = format!(",{member}");
        if list.len() + entry.len() + 1 > SENT_MAX_BYTES {
            lists.push(std::mem::replace(&mut list, begin.clone()));
        }
        list.push_str(&entry);
    }
    lists.push(list);
    lists
        .into_iter()
        .map(|mut list| {
            list.push('\n');
            list.into_bytes()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn listed(datagram: &[u8]) -> (Vec<String>, usize) {
        match Datagram::decode(datagram).unwrap() {
            Datagram::Discover { members, garbage } => {
                (members.iter().map(ToString::to_string).collect(), garbage)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_are_byte_for_byte_those_of_the_old_programs() {
        let name = Name::new(b"b.txt").unwrap();
        assert_eq!(encode_get(&name), b"Get,b.txt\n");
        assert_eq!(encode_file(35111), b"File,1,35111\n");
        let own = address("127.0.0.1:21001");
        assert_eq!(encode_lists(own, &[]), [b"DISCOVER,127.0.0.1:21001\n"]);
        let two = encode_lists(own, &[address("10.0.0.2:1378")]);
        assert_eq!(two, [b"DISCOVER,127.0.0.1:21001,10.0.0.2:1378\n"]);
    }

    #[test]
    fn a_long_list_is_split_and_each_part_begins_with_our_address() {
        let own = address("192.168.100.100:21001");
        let members: Vec<SocketAddrV4> = (0..300)
            .map(|n| SocketAddrV4::new([192, 168, 200, (n % 250) as u8].into(), 20_000 + n))
            .collect();
        let lists = encode_lists(own, &members);
        assert!(lists.len() > 3);
        let mut seen = Vec::new();
        for list in &lists {
            assert!(list.len() <= SENT_MAX_BYTES && list.ends_with(b"\n"));
            let (entries, garbage) = listed(list);
            assert_eq!((entries[0].as_str(), garbage), ("192.168.100.100:21001", 0));
            seen.extend(entries[1..].iter().map(|entry| address(entry)));
        }
        assert_eq!(seen, members);
    }

    #[test]
    fn the_valid_members_of_a_mixed_list_are_used() {
        let (members, garbage) =
            listed(b"DISCOVER,localhost:21201,127.0.0.1:21201,bad,[::1]:1, x:1,,127.0.0\r\n");
        assert_eq!(members, ["localhost:21201", "127.0.0.1:21201", "x:1"]);
        assert_eq!(garbage, 3);
        for empty in [&b"DISCOVER"[..], b"DISCOVER,", b"  DISCOVER,\n\n"] {
            assert_eq!(listed(empty), (Vec::new(), 0));
        }
    }

    #[test]
    fn any_line_end_blanks_and_extra_fields_are_tolerated() {
        let get = |text: &[u8]| match Datagram::decode(text).unwrap() {
            Datagram::Get(name) => name.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(get(b"Get,a.txt"), "a.txt");
        assert_eq!(get(b"\t Get,a.txt\r\n"), "a.txt");
        assert_eq!(get(b"Get, a.txt\n"), " a.txt");
        assert_eq!(get(b"Get,a,b.txt\n"), "a");
        assert_eq!(get(b"Get,x/../../a.txt\nGet,b"), "a.txt");
    }

    #[test]
    fn a_file_answer_of_each_dialect_yields_its_tcp_port() {
        for file in [
            &b"File,1,35111\n"[..],
            b"File,35111\n",
            b"File,1,35111,x",
            b"File,3,35111",
        ] {
            assert_eq!(
                Datagram::decode(file).unwrap(),
                Datagram::File { port: 35111 }
            );
        }
        for bad in [
            &b"File\n"[..],
            b"File,1,",
            b"File,1,x",
            b"File,1,0",
            b"File,1,65536",
            b"File,1,-5",
            b"File,2,35111",
            b"File,a,35111",
            b"File,,",
        ] {
            assert!(Datagram::decode(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn keywords_are_case_sensitive_and_unknown_ones_are_not_messages() {
        for bad in [
            &b""[..],
            b"get,a",
            b"GET,a",
            b"discover,",
            b"Ping",
            b"\n",
            b"Get",
            b"Get,",
            b"Get,..",
            b"Get,/",
            b"\xff\xff",
        ] {
            assert!(Datagram::decode(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert!(is_legacy_datagram(b"DISCOVER") && !is_legacy_datagram(b"\x80"));
        assert!(!is_legacy_datagram(b""));
    }

    #[test]
    fn a_datagram_and_its_list_are_read_up_to_their_limits() {
        for (length, fits) in [
            (RECEIVED_MAX_BYTES - 1, true),
            (RECEIVED_MAX_BYTES, true),
            (RECEIVED_MAX_BYTES + 1, false),
        ] {
            let mut datagram = b"DISCOVER,".to_vec();
            datagram.resize(length, b' ');
            assert_eq!(Datagram::decode(&datagram).is_ok(), fits, "{length}");
        }
        for (count, kept) in [
            (LISTED_MAX - 1, LISTED_MAX - 1),
            (LISTED_MAX, LISTED_MAX),
            (LISTED_MAX + 1, LISTED_MAX),
        ] {
            let list = format!("DISCOVER,{}", vec!["10.0.0.1:1"; count].join(","));
            let Ok(Datagram::Discover { members, garbage }) = Datagram::decode(list.as_bytes())
            else {
                panic!("a list of {count} is read");
            };
            assert_eq!((members.len(), garbage), (kept, count - kept));
        }
    }

    proptest! {
        #[test]
        fn no_input_breaks_the_decoder_and_its_output_is_within_limits(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            keyword in prop_oneof![Just(&b""[..]), Just(&b"DISCOVER,"[..]), Just(&b"Get,"[..]),
                Just(&b"File,"[..])],
        ) {
            match Datagram::decode(&[keyword, &bytes].concat()) {
                Ok(Datagram::Discover { members, .. }) => prop_assert!(members.len() <= LISTED_MAX),
                Ok(Datagram::Get(name)) => prop_assert!(Name::new(name.as_bytes()).is_ok()),
                Ok(Datagram::File { port }) => prop_assert!(port != 0),
                Err(_) => {}
            }
        }

        #[test]
        fn a_name_that_can_be_requested_arrives_unchanged(
            bytes in proptest::collection::vec(any::<u8>(), 1..80),
        ) {
            if let Ok(name) = Name::new(&bytes) {
                prop_assert_eq!(
                    Datagram::decode(&encode_get(&name)).unwrap(),
                    Datagram::Get(name)
                );
            }
        }
    }
}
