//! Tests of the layout and the limits of datagrams.

use proptest::prelude::*;

use super::*;
use crate::wire::native::tcp::Lane;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;

fn contact() -> Contact {
    let address = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"
        .parse()
        .unwrap();
    Contact {
        node: NodeId::new([255; 32]),
        address,
        generation: Generation(u64::MAX),
    }
}

fn signed() -> SignedContact {
    SignedContact {
        contact: contact(),
        signature: [[255; 32]; 2],
    }
}

fn credentials() -> Credentials {
    Credentials {
        who: signed(),
        exchange: [255; 32],
        binding: [[255; 32]; 2],
    }
}

fn longest_proof() -> Proof {
    Proof {
        token: [255; 16],
        who: credentials(),
        reached: contact().address,
    }
}

#[test]
fn the_header_is_its_own_inverse() {
    let header = Header {
        epoch: EpochId([7; 8]),
        salt: [9; 16],
        counter: 0x0102_0304,
    };
    let mut datagram = header.encode().to_vec();
    datagram.extend([1; TAG_BYTES]);
    assert_eq!(Header::decode(&datagram), Ok((header, &[1; TAG_BYTES][..])));
}

#[test]
fn another_magic_version_or_length_is_refused() {
    let header = Header {
        epoch: EpochId([7; 8]),
        salt: [9; 16],
        counter: 1,
    };
    let mut datagram = header.encode().to_vec();
    datagram.extend([1; TAG_BYTES]);
    let changed = |at: usize, to: u8| {
        let mut other = datagram.clone();
        other[at] = to;
        Header::decode(&other).unwrap_err()
    };
    assert_eq!(changed(0, b'D'), DatagramError::NotOurs);
    assert_eq!(changed(1, 1), DatagramError::OtherVersion { version: 1 });
    for length_bytes in [0, HEADER_BYTES + TAG_BYTES - 1, DATAGRAM_MAX_BYTES + 1] {
        let bytes = vec![MAGIC; length_bytes];
        assert_eq!(
            Header::decode(&bytes),
            Err(DatagramError::BadLength { length_bytes })
        );
    }
    let least = DatagramError::BadLength { length_bytes: 0 }.to_string();
    let from = format!("a datagram has {} to ", datagram.len());
    assert!(least.starts_with(&from), "{least}");
}

#[test]
fn the_first_byte_is_not_text() {
    const { assert!(MAGIC >= 0x80) };
}

#[test]
fn the_longest_payload_fits_with_the_longest_proof() {
    let payload = Bytes::from(vec![1; PAYLOAD_MAX_BYTES]);
    for frame in [
        DatagramFrame::Swim(payload.clone()),
        DatagramFrame::Message(payload),
    ] {
        let body = Body {
            to: [1; 8],
            proof: Some(longest_proof()),
            frame,
        };
        let bytes = body.encode().unwrap();
        assert_eq!(Body::decode(&bytes), Ok(body));
    }
}

#[test]
fn no_answer_to_a_hello_is_longer_than_the_hello() {
    let reply = DatagramFrame::HelloReply {
        nonce: [255; 16],
        token: [255; 16],
        who: Box::new(credentials()),
        reached: contact().address,
        known: Some(Box::new(signed())),
    };
    let body = Body {
        to: [1; 8],
        proof: None,
        frame: reply,
    };
    let length = body.encode().unwrap().len() + HEADER_BYTES + MAC_BYTES + TAG_BYTES;
    assert!(length <= HELLO_BYTES, "{length} bytes");
}

#[test]
fn values_over_a_limit_are_neither_written_nor_read() {
    let long = Bytes::from(vec![1; PAYLOAD_MAX_BYTES + 1]);
    let head = Rumor::Head(EncodedHead {
        author: NodeId::new([1; 32]),
        rank: (1, 1),
        bytes: vec![1; HEAD_MAX_BYTES + 1].into(),
    });
    for frame in [
        DatagramFrame::Swim(long.clone()),
        DatagramFrame::Message(long),
        DatagramFrame::Rumors(vec![head]),
    ] {
        let body = Body {
            to: [1; 8],
            proof: None,
            frame,
        };
        assert!(matches!(body.encode(), Err(DatagramError::TooLong { .. })));
        let bytes = postcard::to_stdvec(&body).unwrap();
        assert!(matches!(
            Body::decode(&bytes),
            Err(DatagramError::TooLong { .. })
        ));
    }
}

#[test]
fn limits_of_a_body_and_its_parts_are_inclusive() {
    let rumor = |bytes: usize| {
        Rumor::Head(EncodedHead {
            author: NodeId::new([1; 32]),
            rank: (1, 1),
            bytes: vec![1; bytes].into(),
        })
    };
    let statement = |bytes: usize| Rumor::Statement(vec![1; bytes].into());
    let body = |rumors: Vec<Rumor>| Body {
        to: [1; 8],
        proof: None,
        frame: DatagramFrame::Rumors(rumors),
    };
    let fits = |rumors: Vec<Rumor>| {
        let body = body(rumors);
        let read = Body::decode(&postcard::to_stdvec(&body).unwrap());
        assert_eq!(body.encode().is_ok(), read.is_ok());
        read.is_ok()
    };
    for bytes in [HEAD_MAX_BYTES - 1, HEAD_MAX_BYTES] {
        assert!(fits(vec![rumor(bytes)]));
    }
    assert!(!fits(vec![rumor(HEAD_MAX_BYTES + 1)]));
    for bytes in [STATEMENT_MAX_BYTES - 1, STATEMENT_MAX_BYTES] {
        assert!(fits(vec![statement(bytes)]));
    }
    assert!(!fits(vec![statement(STATEMENT_MAX_BYTES + 1)]));
    let with = |bytes| {
        vec![
            statement(320),
            statement(320),
            statement(320),
            statement(bytes),
        ]
    };
    let length = |bytes| postcard::to_stdvec(&body(with(bytes))).unwrap().len();
    let most = (0..=STATEMENT_MAX_BYTES).rfind(|bytes| length(*bytes) <= BODY_MAX_BYTES);
    let most = most.expect("three statements leave room");
    assert_eq!(length(most), BODY_MAX_BYTES, "no byte is left over");
    assert!(fits(with(most - 1)) && fits(with(most)) && !fits(with(most + 1)));
}

#[test]
fn a_datagram_of_the_maximum_length_is_parsed() {
    for (length_bytes, fits) in [
        (DATAGRAM_MAX_BYTES - 1, true),
        (DATAGRAM_MAX_BYTES, true),
        (DATAGRAM_MAX_BYTES + 1, false),
    ] {
        let mut bytes = vec![VERSION; length_bytes];
        bytes[0] = MAGIC;
        assert_eq!(Header::decode(&bytes).is_ok(), fits, "{length_bytes}");
    }
}

#[test]
fn a_trailing_byte_is_refused() {
    let mut body = Body {
        to: [1; 8],
        proof: None,
        frame: DatagramFrame::Nothing,
    }
    .encode()
    .unwrap();
    body.push(0);
    assert_eq!(Body::decode(&body), Err(DatagramError::Malformed));
    let mut message = Message::Get {
        hashes: vec![ContentHash::of(b"x")],
    }
    .encode()
    .unwrap();
    message.push(0);
    assert_eq!(Message::decode(&message), Err(DatagramError::Malformed));
}

fn longest_offer() -> OfferSummary {
    OfferSummary {
        hash: ContentHash::new([255; 32]),
        size_bytes: u64::MAX,
        all: false,
        ranges: vec![ByteRange::new(u64::MAX - 1, u64::MAX); OFFER_RANGES_MAX],
        load: 255,
        askers: vec![NodeId::new([255; 32]); OFFER_ASKERS_MAX],
    }
}

#[test]
fn the_longest_messages_fit_a_payload() {
    let get = Message::Get {
        hashes: vec![ContentHash::new([255; 32]); GET_HASHES_MAX],
    };
    let call = Message::Call { lane: Lane::Bulk };
    for message in [get, Message::Offer(longest_offer()), call] {
        let bytes = message.encode().unwrap();
        assert_eq!(Message::decode(&bytes), Ok(message));
    }
}

#[test]
fn lists_over_their_limits_are_refused() {
    let hashes = |count| Message::Get {
        hashes: vec![ContentHash::new([1; 32]); count],
    };
    let mut ranges = longest_offer();
    ranges.ranges.push(ByteRange::new(0, 1));
    let mut askers = longest_offer();
    askers.askers.push(NodeId::new([0; 32]));
    let offers = [Message::Offer(ranges), Message::Offer(askers)];
    for message in [hashes(0), hashes(GET_HASHES_MAX + 1)]
        .into_iter()
        .chain(offers)
    {
        assert!(message.encode().is_err());
        assert!(Message::decode(&postcard::to_stdvec(&message).unwrap()).is_err());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..1300)) {
        let _ = Header::decode(&bytes);
        if let Ok(body) = Body::decode(&bytes) {
            prop_assert!(body.encode().is_ok());
        }
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert!(message.encode().is_ok());
        }
    }
}
