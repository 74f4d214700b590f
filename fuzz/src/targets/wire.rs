//! All network formats. Decoded data is within its limits, and is equal after another encoding and
//! decoding.

use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use p2pfs_legacy::wire::discovery::{self as legacy, Datagram, MemberName, Name, TransferHeader};
use p2pfs_legacy::wire::mesh::{self, Decoder, Item, Line};
use p2pfs_proto::wire::native::record::SignedHead;
use p2pfs_proto::wire::native::tcp::{
    BatchPart, FrameHeader, Greeting, HEADER_BYTES, LOG_RECORDS_MAX, PackedBatch, Phase, Request,
    Response, pack_records, unpack_batch, unpack_records,
};
use p2pfs_proto::wire::native::udp::{Body, Header, Message};
use p2pfs_transfer::net::lan::machine::{Machine, Output};
use p2pfs_transfer::net::lan::subnet::{LinkId, Subnet};
use p2pfs_types::digest::{self, ContentHash, Outboard};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Decodes a header and a body, whatever length the header states.
pub fn frames(bytes: &[u8]) {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return;
    };
    for phase in [
        Phase::Greeting,
        Phase::Requests,
        Phase::Responses,
        Phase::Both,
    ] {
        let Ok(header) = FrameHeader::decode(header, phase) else {
            continue;
        };
        assert!(header.body_bytes <= header.kind.limit_bytes());
        let body = Bytes::copy_from_slice(body);
        if let Ok(request) = Request::decode(header.kind, body.clone()) {
            let again = request.encode(header.id).expect("it was within its limits");
            assert_eq!(Request::decode(header.kind, again.body), Ok(request));
        }
        if let Ok(response) = Response::decode(header.kind, body.clone()) {
            let again = response
                .encode(header.id)
                .expect("it was within its limits");
            assert_eq!(Response::decode(header.kind, again.body), Ok(response));
        }
        if let Ok(greeting) = Greeting::decode(header.kind, &body) {
            let again = greeting.encode();
            let kind = FrameHeader::decode(&again.header, Phase::Greeting)
                .unwrap()
                .kind;
            assert!(Greeting::decode(kind, &again.body).is_ok());
        }
    }
}

/// Decodes a datagram, the body within its seal, and a message within that.
pub fn datagrams(bytes: &[u8]) {
    if let Ok((header, sealed)) = Header::decode(bytes) {
        assert_eq!([&header.encode()[..], sealed].concat(), bytes);
    }
    if let Ok(body) = Body::decode(bytes) {
        // The encoding may be shorter than `bytes`, but it decodes to the same value.
        let again = body.encode().expect("it was within its limits");
        assert_eq!(Body::decode(&again), Ok(body));
    }
    if let Ok(message) = Message::decode(bytes) {
        let again = message.encode().expect("it was within its limits");
        assert_eq!(Message::decode(&again), Ok(message));
    }
}

/// Decodes records of a log: the bytes as packed records, and the bytes after packing.
pub fn records(bytes: &[u8]) {
    let packed = zstd::bulk::compress(bytes, 1).expect("memory can be compressed into");
    for bytes in [bytes, &packed] {
        let Ok(records) = unpack_records(bytes) else {
            continue;
        };
        assert!(records.len() <= LOG_RECORDS_MAX);
        let Ok(again) = pack_records(&records) else {
            assert!(records.is_empty(), "one record always fits");
            continue;
        };
        assert_eq!(
            unpack_records(&again.bytes).as_deref(),
            Ok(&records[..again.count])
        );
    }
    if let Ok(head) = postcard::from_bytes::<SignedHead>(bytes) {
        let _bytes = head.head.signed_bytes();
    }
}

/// Decodes answers about many small files.
pub fn batches(bytes: &[u8]) {
    let Ok(parts) = unpack_batch(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let mut again = PackedBatch::with_capacity(0);
    for part in &parts {
        match part {
            BatchPart::Here(proof) => again.push_here(proof),
            BatchPart::Gone => again.push_gone(),
            BatchPart::NotHere => again.push_not_here(),
        }
    }
    assert_eq!(unpack_batch(&Bytes::from(again.into_bytes())), Ok(parts));
}

/// Decodes proofs of ranges: honest ones with some changed bytes, and any bytes. Verified bytes
/// must be right.
pub fn proofs(choose: &mut Unstructured<'_>) -> Result<()> {
    const MOST_BYTES: u64 = 200_000;
    let size_bytes = choose.int_in_range(0..=MOST_BYTES)?;
    let start = choose.int_in_range(0..=size_bytes)?;
    let end = choose.int_in_range(start..=size_bytes)?;
    let range = ByteRange::new(start, end);
    let content: Vec<u8> = (0..size_bytes).map(|at| (at * at / 7) as u8).collect();
    let hash = ContentHash::of(&content);
    let begins_honest = choose.ratio(3u8, 4u8)?;
    let mut proof = if begins_honest {
        match digest::encode(
            hash,
            size_bytes,
            range,
            &content[..],
            &outboard(&content)[..],
        ) {
            Ok(proof) => proof,
            Err(_) => return Ok(()),
        }
    } else {
        choose.bytes(choose.len().min(1000))?.to_vec()
    };
    let honest = proof.clone();
    while !choose.is_empty() && !proof.is_empty() {
        let at = choose.int_in_range(0..=proof.len() - 1)?;
        match choose.int_in_range(0..=9u8)? {
            0 => proof.truncate(at),
            1 => proof.push(choose.arbitrary()?),
            _ => proof[at] ^= choose.arbitrary::<u8>()?,
        }
    }
    let is_honest = begins_honest && proof == honest;
    // A proof for a wrong size must not verify wrong bytes either.
    let claimed = size_bytes.saturating_add_signed(choose.arbitrary::<i8>()?.into());
    let verified = digest::decode(hash, claimed, range, Bytes::from(proof));
    if let Ok(verified) = verified {
        let (from, to) = (verified.range.start as usize, verified.range.end as usize);
        assert_eq!(verified.bytes[..], content[from..to]);
    } else {
        assert!(!is_honest || claimed != size_bytes);
    }
    Ok(())
}

fn outboard(content: &[u8]) -> Vec<u8> {
    Outboard::of(content).pairs
}

/// Decodes the legacy peers' datagrams, questions and headers.
pub fn legacy(bytes: &[u8]) {
    let _any = legacy::is_legacy_datagram(bytes);
    if let Ok(Datagram::Discover { members, .. }) = Datagram::decode(bytes) {
        assert!(members.len() <= legacy::LISTED_MAX);
    }
    if let Ok(Datagram::Get(name)) = Datagram::decode(bytes) {
        assert_eq!(
            Datagram::decode(&legacy::encode_get(&name)),
            Ok(Datagram::Get(name))
        );
    }
    if let Some(name) = legacy::decode_request(bytes) {
        assert_eq!(
            legacy::decode_request(&legacy::encode_request(&name)),
            Some(name)
        );
    }
    let asked = Name::new(b"asked.txt").expect("a name");
    if let Some(header) = bytes.first_chunk()
        && let Ok(header) = TransferHeader::decode(header, &asked)
    {
        assert_eq!(TransferHeader::decode(&header.encode(), &asked), Ok(header));
    }
}

/// Decodes a mesh peer's bytes. The result must not depend on their division into pieces.
pub fn mesh(choose: &mut Unstructured<'_>) -> Result<()> {
    let pieces: Vec<usize> = (0..4)
        .map(|_| choose.int_in_range(1..=99))
        .collect::<Result<_>>()?;
    let bytes = choose.bytes(choose.len())?;
    let whole = heard(std::iter::once(bytes));
    let mut rest = bytes;
    let mut split = Vec::new();
    for size in pieces.iter().cycle() {
        let (piece, later) = rest.split_at((*size).min(rest.len()));
        split.push(piece);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(heard(split.into_iter()), whole);
    for line in bytes.split(|byte| *byte == b'\n') {
        let _line = Line::parse(line);
        let _hello = mesh::Hello::parse(line);
        if let Some(name) = p2pfs_types::file_name::received_name(line) {
            p2pfs_types::path::check_name(&name).expect("what is kept is a name");
        }
    }
    Ok(())
}

/// Returns the output of a decoder, with the pieces of one file joined.
fn heard<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, Option<String>) {
    let mut decoder = Decoder::default();
    let mut items = Vec::new();
    let mut part = Vec::new();
    for piece in pieces {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next_item() {
                Ok(Some(Item::Part(bytes))) => part.extend_from_slice(&bytes),
                Ok(Some(item)) => {
                    items.push(format!("{:?}", std::mem::take(&mut part)));
                    items.push(format!("{item:?}"));
                }
                Ok(None) => break,
                Err(error) => return (items, Some(error.to_string())),
            }
        }
    }
    items.push(format!("{part:?}"));
    (items, None)
}

/// Parses names of nodes, files and addresses.
pub fn names(bytes: &[u8]) {
    if let Ok(path) = SharedPath::new(bytes) {
        assert!(
            path.components()
                .all(|name| p2pfs_types::path::check_name(name).is_ok())
        );
        assert_eq!(SharedPath::new(path.as_bytes()).as_ref(), Ok(&path));
    }
    let _member = MemberName::parse(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(name) = NodeName::new(text) {
        assert_eq!(NodeName::new(name.as_str()).as_ref(), Ok(&name));
    }
    if let Ok(node) = text.parse::<NodeId>() {
        assert_eq!(node.to_string().parse::<NodeId>().as_ref(), Ok(&node));
    }
    if let Ok(hash) = text.parse::<ContentHash>() {
        assert_eq!(hash.to_string().parse::<ContentHash>().ok(), Some(hash));
    }
    let _safe = NodeName::from_host(text);
}

/// Handles a datagram of multicast DNS. The node must send little in reply.
pub fn mdns(bytes: &[u8]) {
    let start = Instant::now();
    let listen = "0.0.0.0:1378".parse().unwrap();
    let mut machine = Machine::new(listen, "aaaa", start).expect("a label");
    let link = LinkId {
        interface: 2,
        is_v6: false,
    };
    let subnet = Subnet {
        ip: "10.0.0.1".parse().unwrap(),
        prefix_bits: 24,
    };
    machine.set_links(&[(link, vec![subnet])], start);
    machine.receive(link, "10.0.0.2:5353".parse().unwrap(), bytes, start);
    let later = start + Duration::from_millis(500);
    let outputs: Vec<_> = std::iter::from_fn(|| machine.poll(later)).collect();
    assert!(outputs.len() <= 40);
    for output in outputs {
        if let Output::Send(_, datagram) = output {
            assert!(datagram.len() <= 1452);
        }
    }
}
