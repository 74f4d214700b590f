//! Tests that every message survives the wire and that no limit can be exceeded.

use proptest::prelude::*;

use super::*;
use crate::wire::native::record::{Entry, Fact, Head, Kind, Record, ShareIndex, Timestamp};
use p2pfs_types::id::NodeName;
use p2pfs_types::path::SharedPath;

fn signed_head() -> SignedHead {
    let head = Head {
        author: NodeId::new([1; 32]),
        name: NodeName::new("lab").unwrap(),
        epoch: 1,
        sequence: 2,
        count: 3,
        floor: 0,
        digest: [4; 32],
    };
    SignedHead {
        head,
        signature: [[5; 32]; 2],
    }
}

fn record(sequence: u64, path: &[u8]) -> Record {
    let path = SharedPath::new(path).unwrap();
    Record {
        sequence,
        fact: Fact::Removed {
            share: ShareIndex(0),
            path,
        },
    }
}

fn header_of(frame: &Frame, phase: Phase) -> FrameHeader {
    FrameHeader::decode(&frame.header, phase).unwrap()
}

#[test]
fn every_request_round_trips() {
    let hash = ContentHash::of(b"x");
    for request in [
        Request::Members {
            members: Bytes::from_static(b"opaque"),
        },
        Request::Heads {
            heads: vec![signed_head(); 3],
        },
        Request::Log {
            author: NodeId::new([9; 32]),
            epoch: u64::MAX,
            after: 7,
        },
        Request::Range {
            hash,
            size_bytes: 100,
            range: ByteRange::new(3, 100),
        },
        Request::Range {
            hash,
            size_bytes: 0,
            range: ByteRange::new(0, 0),
        },
        Request::Holdings { hash },
    ] {
        let frame = request.encode(77).unwrap();
        let header = header_of(&frame, Phase::Requests);
        assert_eq!((header.id, header.body_bytes), (77, frame.body.len()));
        assert_eq!(Request::decode(header.kind, frame.body).unwrap(), request);
    }
}

#[test]
fn every_response_round_trips() {
    let packed = pack_records(&[record(1, b"a/b")]).unwrap();
    let part = LogPart {
        head: signed_head(),
        fresh: true,
        records: packed.bytes,
        last: false,
    };
    let ranges = [ByteRange::new(0, 65536), ByteRange::new(131_072, 140_000)];
    for response in [
        Response::Members {
            members: Bytes::new(),
        },
        Response::Heads {
            heads: vec![signed_head()],
        },
        Response::Log(part),
        Response::Data {
            proof: Bytes::from(vec![7; 1 << 20]),
        },
        Response::Holdings {
            ranges: ranges.into_iter().collect(),
            size_bytes: 140_000,
        },
        Response::Gone,
        Response::NotHere,
        Response::Busy,
        Response::Refused {
            reason: "no".into(),
        },
    ] {
        let frame = response.encode(u32::MAX).unwrap();
        let header = header_of(&frame, Phase::Responses);
        assert_eq!(header.id, u32::MAX);
        assert_eq!(Response::decode(header.kind, frame.body).unwrap(), response);
    }
}

#[test]
fn every_greeting_round_trips() {
    let word = Bytes::from_static(b"statement");
    for greeting in [
        Greeting::Prove {
            lane: Lane::Urgent,
            proof: [1; 32],
            chain: Bytes::new(),
        },
        Greeting::Prove {
            lane: Lane::Bulk,
            proof: [2; 32],
            chain: Bytes::from_static(b"chain"),
        },
        Greeting::Enrol {
            proof: [3; 32],
            name: Bytes::from_static(b"joiner"),
        },
        Greeting::Proven {
            proof: [4; 32],
            chain: Bytes::from_static(b"chain"),
        },
        Greeting::Enrolled {
            secret: [5; 32],
            proof: [6; 32],
            chain: Bytes::from_static(b"chain"),
        },
        Greeting::PutOut { word },
        Greeting::Declined(DeclineReason::Used),
        Greeting::Declined(DeclineReason::Other),
    ] {
        let frame = greeting.encode();
        let header = header_of(&frame, Phase::Greeting);
        let read = Greeting::decode(header.kind, &frame.body);
        assert_eq!(read.unwrap(), greeting);
    }
}

#[test]
fn a_stranger_can_only_send_a_short_greeting() {
    for kind in [
        FrameKind::AskMembers,
        FrameKind::Ping,
        FrameKind::Data,
        FrameKind::Pong,
    ] {
        let frame = Frame::empty(0, kind);
        assert!(
            FrameHeader::decode(&frame.header, Phase::Greeting).is_err(),
            "{kind:?}"
        );
    }
    let mut header = Greeting::Enrol {
        proof: [0; 32],
        name: Bytes::new(),
    }
    .encode()
    .header;
    header[..4].copy_from_slice(&10_000u32.to_be_bytes());
    assert!(matches!(
        FrameHeader::decode(&header, Phase::Greeting),
        Err(WireError::TooLong { .. })
    ));
}

#[test]
fn a_header_over_its_kinds_limit_is_refused_before_its_body() {
    for (kind, phase) in [
        (FrameKind::AskRange, Phase::Requests),
        (FrameKind::AskMembers, Phase::Requests),
        (FrameKind::Data, Phase::Responses),
        (FrameKind::Pong, Phase::Responses),
    ] {
        let mut header = Frame::empty(1, kind).header;
        header[..4].copy_from_slice(&(kind.limit_bytes() as u32 + 6).to_be_bytes());
        let refused = FrameHeader::decode(&header, phase);
        assert!(
            matches!(refused, Err(WireError::TooLong { .. })),
            "{kind:?}"
        );
        header[..4].copy_from_slice(&(kind.limit_bytes() as u32 + 5).to_be_bytes());
        assert!(FrameHeader::decode(&header, phase).is_ok(), "{kind:?}");
        header[..4].copy_from_slice(&4u32.to_be_bytes());
        assert!(FrameHeader::decode(&header, phase).is_err(), "{kind:?}");
    }
}

/// Each limit of a frame's body, and the kinds that have it.
const BODIES: [(usize, &[FrameKind]); 10] = [
    (
        MEMBERS_MAX_BYTES,
        &[FrameKind::AskMembers, FrameKind::Members],
    ),
    (HEADS_MAX_BYTES, &[FrameKind::AskHeads, FrameKind::Heads]),
    (LOG_MAX_BYTES, &[FrameKind::Log]),
    (FRAME_MAX_BYTES, &[FrameKind::Data]),
    (TRUST_MAX_BYTES, &[FrameKind::AskTrust, FrameKind::Trust]),
    (HOLDINGS_MAX_BYTES, &[FrameKind::Holdings]),
    (REASON_MAX_BYTES, &[FrameKind::Refused]),
    (SAID_MAX_BYTES, &[FrameKind::Say]),
    (GIVEN_MAX_BYTES, &[FrameKind::Message]),
    // A greeting has a secret, a proof and the chain.
    (
        CHAIN_MAX_BYTES + 64,
        &[FrameKind::Prove, FrameKind::Proven, FrameKind::Enrolled],
    ),
];

#[test]
fn a_frame_of_its_kinds_limit_is_sent_and_a_longer_one_is_not() {
    for (limit_bytes, kinds) in BODIES {
        for (kind, length) in kinds.iter().zip([limit_bytes; 3]) {
            let frame = |length| Frame::new(1, *kind, Bytes::from(vec![0; length]));
            for length in [length - 1, length] {
                let whole = frame(length).unwrap();
                let phases = [Phase::Greeting, Phase::Requests, Phase::Responses];
                let taken = phases.map(|phase| FrameHeader::decode(&whole.header, phase));
                let taken: Vec<_> = taken.into_iter().flatten().collect();
                assert_eq!(taken.len(), 1, "{kind:?} has its place in one phase");
                let is_greeting = FrameHeader::decode(&whole.header, Phase::Greeting).is_ok();
                let in_both = FrameHeader::decode(&whole.header, Phase::Both).is_ok();
                assert_eq!(in_both, !is_greeting, "{kind:?}");
                assert_eq!(taken[0].body_bytes, length, "{kind:?}");
            }
            assert!(frame(length + 1).is_err(), "{kind:?}");
        }
    }
}

#[test]
fn limits_of_head_and_range_lists_are_inclusive() {
    let ranges = |count: usize| -> Vec<ByteRange> {
        let starts = (0..count as u64).map(|at| at * 4);
        starts.map(|at| ByteRange::new(at, at + 1)).collect()
    };
    for (count, fits) in [
        (HEADS_MAX - 1, true),
        (HEADS_MAX, true),
        (HEADS_MAX + 1, false),
    ] {
        let heads = vec![signed_head(); count];
        let body = body_of(&heads);
        let ask = Request::Heads { heads };
        assert_eq!(ask.encode(1).is_ok(), fits, "{count}");
        let taken = Request::decode(FrameKind::AskHeads, body);
        assert_eq!(taken.ok(), fits.then_some(ask), "{count}");
    }
    for (count, fits) in [
        (HOLDINGS_RANGES_MAX - 1, true),
        (HOLDINGS_RANGES_MAX, true),
        (HOLDINGS_RANGES_MAX + 1, false),
    ] {
        let body = body_of(&(1u64 << 40, ranges(count)));
        let answer = Response::Holdings {
            ranges: ranges(count).into_iter().collect(),
            size_bytes: 1 << 40,
        };
        assert_eq!(answer.encode(1).is_ok(), fits, "{count}");
        let taken = Response::decode(FrameKind::Holdings, body);
        assert_eq!(taken.ok(), fits.then_some(answer), "{count}");
    }
}

#[test]
fn the_longest_range_of_the_largest_file_can_be_requested() {
    let ask = |size_bytes, start, end| Request::Range {
        hash: ContentHash::of(b"x"),
        size_bytes,
        range: ByteRange::new(start, end),
    };
    for (request, fits) in [
        (ask(1 << 30, 0, RANGE_MAX_BYTES - 1), true),
        (ask(1 << 30, 7, RANGE_MAX_BYTES + 7), true),
        (ask(1 << 30, 7, RANGE_MAX_BYTES + 8), false),
        (ask(FILE_MAX_BYTES - 1, 0, 1), true),
        (
            ask(FILE_MAX_BYTES, FILE_MAX_BYTES - 1, FILE_MAX_BYTES),
            true,
        ),
        (ask(FILE_MAX_BYTES + 1, 0, 1), false),
    ] {
        assert_eq!(request.encode(1).is_ok(), fits, "{request:?}");
    }
}

#[test]
fn a_log_part_is_decompressed_up_to_its_records_and_length() {
    for (count, fits) in [
        (LOG_RECORDS_MAX - 1, true),
        (LOG_RECORDS_MAX, true),
        (LOG_RECORDS_MAX + 1, false),
    ] {
        let many: Vec<Record> = (0..count as u64).map(|at| record(at, b"d/name")).collect();
        let raw = postcard::to_stdvec(&many).unwrap();
        let packed = zstd::bulk::compress(&raw, 1).unwrap();
        assert_eq!(
            unpack_records(&packed).ok(),
            fits.then_some(many),
            "{count}"
        );
    }
    let refusal = |length| unpack_records(&vec![0; length]).unwrap_err();
    for length in [LOG_MAX_BYTES - 1, LOG_MAX_BYTES] {
        assert!(matches!(refusal(length), WireError::Malformed { .. }));
    }
    let over = refusal(LOG_MAX_BYTES + 1);
    assert!(
        matches!(over, WireError::TooLong { .. }),
        "before it is unpacked"
    );
}

#[test]
fn a_range_outside_its_file_or_over_the_limit_is_refused_by_both_ends() {
    let hash = ContentHash::of(b"x");
    for (size_bytes, range) in [
        (10, ByteRange::new(0, 11)),
        (10, ByteRange::new(5, 5)),
        (u64::MAX, ByteRange::new(0, 1)),
        (1 << 30, ByteRange::new(0, RANGE_MAX_BYTES + 1)),
    ] {
        assert!(
            Request::Range {
                hash,
                size_bytes,
                range
            }
            .encode(1)
            .is_err()
        );
        let body = body_of(&(hash, size_bytes, range));
        assert!(Request::decode(FrameKind::AskRange, body).is_err());
    }
}

#[test]
fn trailing_bytes_are_refused() {
    let frame = Request::Heads {
        heads: vec![signed_head()],
    }
    .encode(1)
    .unwrap();
    let body = [&frame.body[..], b"x"].concat();
    assert!(Request::decode(FrameKind::AskHeads, Bytes::from(body)).is_err());
}

#[test]
fn a_list_that_announces_more_than_its_limit_is_refused() {
    let announced = postcard::to_stdvec(&(HOLDINGS_RANGES_MAX + 1)).unwrap();
    let body = [&[0][..], &announced, &[0; 2 * (HOLDINGS_RANGES_MAX + 1)]].concat();
    assert!(Response::decode(FrameKind::Holdings, Bytes::from(body)).is_err());
    let huge = postcard::to_stdvec(&u64::MAX).unwrap();
    assert!(Request::decode(FrameKind::AskHeads, Bytes::from(huge)).is_err());
}

#[test]
fn a_long_reason_is_truncated_between_letters() {
    let reason = "ä".repeat(REASON_MAX_BYTES);
    let frame = Response::Refused { reason }.encode(1).unwrap();
    let cut = Response::decode(FrameKind::Refused, frame.body).unwrap();
    assert_eq!(
        cut,
        Response::Refused {
            reason: "ä".repeat(REASON_MAX_BYTES / 2)
        }
    );
}

#[test]
fn packing_takes_as_much_as_fits_and_reports_it() {
    let many: Vec<Record> = (0..5000).map(|i| record(i, b"d/name")).collect();
    let packed = pack_records(&many).unwrap();
    assert_eq!(packed.count, LOG_RECORDS_MAX);
    assert_eq!(
        unpack_records(&packed.bytes).unwrap(),
        many[..LOG_RECORDS_MAX]
    );
    let long = [b"d/".repeat(2047), b"e".to_vec()].concat();
    let long: Vec<Record> = (0..400).map(|i| record(i, &long)).collect();
    let packed = pack_records(&long).unwrap();
    assert!((1..400).contains(&packed.count));
    assert_eq!(unpack_records(&packed.bytes).unwrap(), long[..packed.count]);
    assert_eq!(pack_records(&[]).unwrap().count, 0);
}

#[test]
fn a_compressed_bomb_is_refused_at_the_limit() {
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 19).unwrap();
    assert!(bomb.len() < LOG_MAX_BYTES);
    assert!(unpack_records(&bomb).is_err());
}

#[test]
fn a_record_that_breaks_its_own_rules_is_refused() {
    let entry = |kind, nanoseconds, path: &[u8]| {
        let time = Timestamp {
            seconds: 1,
            nanoseconds,
        };
        let entry = Entry {
            kind,
            mtime: time,
            version_time: time,
            sent_by: None,
            replaces: Vec::new(),
        };
        let path = SharedPath::new(path).unwrap();
        let fact = Fact::Entry {
            share: ShareIndex(1),
            path,
            entry,
        };
        pack_records(&[Record { sequence: 1, fact }]).unwrap().bytes
    };
    let link = |length| Kind::Symlink {
        target: Bytes::from(vec![b't'; length]),
    };
    assert!(unpack_records(&entry(link(4095), 0, b"a")).is_ok());
    assert!(unpack_records(&entry(link(4096), 0, b"a")).is_err());
    assert!(unpack_records(&entry(Kind::Directory, 999_999_999, b"a")).is_ok());
    assert!(unpack_records(&entry(Kind::Directory, 1_000_000_000, b"a")).is_err());
    assert!(unpack_records(&entry(Kind::Directory, 0, b"")).is_err());
}

#[test]
fn a_non_text_reason_is_no_longer_than_its_limit() {
    for length in [REASON_MAX_BYTES - 1, REASON_MAX_BYTES] {
        let body = Bytes::from(vec![0xde; length]);
        let Ok(Response::Refused { reason }) = Response::decode(FrameKind::Refused, body) else {
            panic!("it is within the limit of the frame");
        };
        assert!(reason.len() <= REASON_MAX_BYTES, "{}", reason.len());
    }
    let over = Bytes::from(vec![b'a'; REASON_MAX_BYTES + 1]);
    assert!(Response::decode(FrameKind::Refused, over).is_err());
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        Just(Phase::Greeting),
        Just(Phase::Requests),
        Just(Phase::Responses),
        Just(Phase::Both)
    ]
}

proptest! {
    #[test]
    fn no_header_passes_with_a_body_over_the_limit(header: [u8; HEADER_BYTES], phase in phase()) {
        if let Ok(header) = FrameHeader::decode(&header, phase) {
            prop_assert!(header.body_bytes <= header.kind.limit_bytes());
            prop_assert!(header.body_bytes <= FRAME_MAX_BYTES);
        }
    }

    #[test]
    fn hostile_bodies_never_panic(
        kind in 0u8..64, body in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut header = Frame::empty(1, FrameKind::Ping).header;
        header[8] = kind;
        for phase in [Phase::Greeting, Phase::Both] {
            if let Ok(header) = FrameHeader::decode(&header, phase) {
                let _ = Request::decode(header.kind, Bytes::from(body.clone()));
                let _ = Response::decode(header.kind, Bytes::from(body.clone()));
                let _ = Greeting::decode(header.kind, &body);
            }
        }
    }

    #[test]
    fn a_damaged_list_of_records_never_panics(
        flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..4),
        raw in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let many: Vec<Record> = (0..50).map(|i| record(i, b"d/name")).collect();
        let mut packed = pack_records(&many).unwrap().bytes.to_vec();
        let length = packed.len();
        for (place, mask) in flips {
            packed[usize::from(place) % length] ^= mask;
        }
        let _ = unpack_records(&packed);
        let _ = unpack_records(&raw);
        let _ = unpack_records(&zstd::bulk::compress(&raw, 1).unwrap());
    }

    #[test]
    fn holdings_of_any_shape_decode_within_their_limit(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        if let Ok(Response::Holdings { ranges, .. }) =
            Response::decode(FrameKind::Holdings, Bytes::from(bytes))
        {
            prop_assert!(ranges.iter().count() <= HOLDINGS_RANGES_MAX);
        }
    }
}
