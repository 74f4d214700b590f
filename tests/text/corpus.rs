//! Runs the seeds of the fuzz targets as tests, without a fuzzer. Seeds that begin with `is-` are
//! messages of p2pfs itself, one of each kind. `P2PFS_WRITE_SEEDS=1` writes them again. The others
//! were found by fuzzing.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use p2pfs_legacy::wire::discovery::{
    Name, TransferHeader, encode_get, encode_lists, encode_request,
};
use p2pfs_legacy::wire::mesh::{encode_chat, encode_end, encode_hello, encode_peers, encode_start};
use p2pfs_proto::trust::{InviteToken, Ledger, NodeKey, SignedStatement};
use p2pfs_proto::wire::native::record::{
    EntitledReader, Entry, Fact, Head, KeepOffer, Kind, Record, ShareIndex, SignedHead, Timestamp,
};
use p2pfs_proto::wire::native::tcp::{
    Frame, Greeting, Lane, LogPart, PackedBatch, Request, Response, SmallFile, pack_records,
};
use p2pfs_proto::wire::native::udp::{Body, DatagramFrame, Header, Message, Rumor};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::{EpochId, NodeId, NodeName};
use p2pfs_types::path::SharedPath;

#[allow(unreachable_pub, reason = "the file is also a program of its own")]
#[path = "../../fuzz/src/targets/mod.rs"]
mod targets;

use targets::TARGETS;

/// Maximum size of all seeds of one target, which every clone carries for ever.
const SEEDS_MAX_BYTES: u64 = 64 << 10;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn seeds_of(target: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder().join("seeds").join(target)).expect(target);
    let mut seeds: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    seeds
}

#[test]
fn every_seed_of_every_fuzz_target_passes() {
    for (name, run) in TARGETS {
        run(&[]);
        for path in seeds_of(name) {
            println!("{}", path.display());
            run(&fs::read(&path).unwrap());
        }
    }
}

/// Number of random clusters, unless `P2PFS_CLUSTERS` is set.
const CLUSTERS: u64 = 1000;
/// Minimum number of random words from which a cluster is made. At most twice as many are used.
const CLUSTER_WORDS: u64 = 64;

#[test]
fn no_departed_node_changes_a_random_cluster_after_a_rotation() {
    let count = std::env::var("P2PFS_CLUSTERS").map(|it| it.parse().expect("a number"));
    let (_, run) = TARGETS
        .iter()
        .find(|(name, _)| *name == "trust_departures")
        .expect("the target");
    for seed in 0..count.unwrap_or(CLUSTERS) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
        // Xorshift64*.
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d)
        };
        let words = CLUSTER_WORDS + next() % CLUSTER_WORDS;
        let bytes: Vec<u8> = (0..words).flat_map(|_| next().to_le_bytes()).collect();
        println!("cluster {seed}");
        run(&bytes);
    }
}

#[test]
fn every_fuzz_target_has_its_program_and_few_seeds() {
    let programs = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    for (name, _) in TARGETS {
        assert!(programs.contains(&format!("name = \"{name}\"")), "{name}");
        let program = folder().join("fuzz_targets").join(format!("{name}.rs"));
        let text = fs::read_to_string(program).unwrap();
        assert!(text.contains(&format!("run(\"{name}\", bytes)")), "{name}");
        let seeds = seeds_of(name);
        let sizes = seeds.iter().map(|path| path.metadata().unwrap().len());
        let bytes: u64 = sizes.sum();
        assert!(
            !seeds.is_empty() && bytes <= SEEDS_MAX_BYTES,
            "{name}: {bytes} bytes"
        );
    }
    let programs = fs::read_dir(folder().join("fuzz_targets")).unwrap();
    assert_eq!(programs.count(), TARGETS.len());
}

#[test]
fn each_kind_of_message_is_a_seed_and_unchanged() {
    for (target, kind, bytes) in said() {
        let path = folder().join(format!("seeds/{target}/is-{kind}"));
        if std::env::var_os("P2PFS_WRITE_SEEDS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let seed = fs::read(&path).unwrap_or_default();
        assert!(
            seed == bytes,
            "{} is another: is the format?",
            path.display()
        );
    }
}

type Said = (&'static str, String, Vec<u8>);

fn said() -> Vec<Said> {
    let mut said = Vec::new();
    frames(&mut said);
    datagrams(&mut said);
    trust(&mut said);
    planes(&mut said);
    let call = br#"{"method":"org.p2pfs.Control.Why","parameters":{"path":"a/b"}}"#;
    said.push(("control_calls", "why".into(), call.to_vec()));
    said.push(("names", "path".into(), b"docs/a name.txt".to_vec()));
    said.push((
        "names",
        "hash".into(),
        ContentHash::of(b"x").to_string().into(),
    ));
    said
}

fn key() -> NodeKey {
    NodeKey::from_seed(&[1; 32])
}

/// Returns the facts that releases which speak `p2pfs/3` do not know.
fn replacements(time: Timestamp) -> [Fact; 6] {
    let (share, path) = (ShareIndex(1), SharedPath::new(*b"a/b").unwrap());
    let hash = ContentHash::of(b"x");
    let entry = Entry {
        kind: Kind::File {
            hash,
            size_bytes: 1,
            executable: false,
        },
        mtime: time,
        version_time: time,
        sent_by: None,
        replaces: vec![ContentHash::of(b"y"), ContentHash::of(b"z")],
    };
    let deleted = path.clone();
    [
        Fact::Entry { share, path, entry },
        Fact::Gone {
            path: deleted,
            replaces: vec![hash],
            time,
        },
        Fact::Terms { share, open: true },
        Fact::Terms { share, open: false },
        Fact::Keeps(KeepOffer {
            paths: vec![SharedPath::root(), SharedPath::new(*b"docs").unwrap()],
            all: true,
            full: false,
        }),
        Fact::Keeps(KeepOffer::default()),
    ]
}

fn records() -> Vec<Record> {
    let path = SharedPath::new(&b"docs/a.txt"[..]).unwrap();
    let (share, hash) = (ShareIndex(0), ContentHash::of(b"x"));
    let time = Timestamp {
        seconds: 1_700_000_000,
        nanoseconds: 1,
    };
    let entry = |kind| Fact::Entry {
        share,
        path: path.clone(),
        entry: Entry {
            kind,
            mtime: time,
            version_time: time,
            sent_by: None,
            replaces: Vec::new(),
        },
    };
    let facts = [
        entry(Kind::File {
            hash,
            size_bytes: 1,
            executable: true,
        }),
        entry(Kind::Directory),
        entry(Kind::Symlink {
            target: Bytes::from_static(b"../b"),
        }),
        Fact::Removed {
            share,
            path: path.clone(),
        },
        Fact::Have {
            hash,
            size_bytes: 1,
        },
        Fact::HaveNot { hash },
        Fact::Readers {
            number: ShareIndex::FIRST_SEALED,
            share,
            salt: [2; 16],
            readers: vec![EntitledReader {
                node: key().node_id(),
                key: ([3; 32], [4; 16]),
            }],
        },
        Fact::Sealed {
            number: ShareIndex::FIRST_SEALED,
            path: Bytes::from_static(b"sealed path"),
            entry: Bytes::from_static(b"sealed entry"),
        },
        Fact::SealedRemoved {
            number: ShareIndex::FIRST_SEALED,
            path: Bytes::from_static(b"sealed path"),
        },
    ];
    let facts = facts.into_iter().chain(replacements(time));
    let numbered = facts.zip(1..);
    numbered
        .map(|(fact, sequence)| Record { sequence, fact })
        .collect()
}

fn head() -> SignedHead {
    let head = Head {
        author: key().node_id(),
        name: NodeName::new("lab").unwrap(),
        epoch: 1,
        sequence: 6,
        count: 4,
        floor: 0,
        digest: [4; 32],
    };
    let signature = key().sign(&head.signed_bytes());
    SignedHead { head, signature }
}

#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn frames(said: &mut Vec<Said>) {
    let hash = ContentHash::of(b"x");
    let range = ByteRange::new(0, 100);
    let packed = pack_records(&records()).unwrap().bytes;
    said.push(("wire_records", "packed".into(), packed.to_vec()));
    let mut batch = PackedBatch::with_capacity(100);
    batch.push_here(b"x");
    batch.push_gone();
    batch.push_not_here();
    let batch = batch.into_bytes();
    said.push(("wire_batches", "all".into(), batch.clone()));
    let files = vec![SmallFile {
        hash,
        size_bytes: 1,
    }];
    let requests = [
        Request::Members {
            members: Bytes::from_static(b"list"),
        },
        Request::Heads {
            heads: vec![head()],
        },
        Request::Log {
            author: key().node_id(),
            epoch: 1,
            after: 2,
        },
        Request::Range {
            hash,
            size_bytes: 100,
            range,
        },
        Request::Batch { files },
        Request::Holdings { hash },
        Request::Reach,
        Request::Trust {
            question: Bytes::from_static(b"question"),
        },
    ];
    let responses = [
        Response::Log(LogPart {
            head: head(),
            fresh: true,
            records: packed,
            last: true,
        }),
        Response::Data {
            proof: Bytes::from_static(b"proof"),
        },
        Response::Batch {
            packed: batch.into(),
        },
        Response::Holdings {
            ranges: [range].into_iter().collect(),
            size_bytes: 100,
        },
        Response::Refused {
            reason: "no".into(),
        },
        Response::Gone,
    ];
    let greeting = Greeting::Prove {
        lane: Lane::Urgent,
        proof: [1; 32],
        chain: Bytes::from_static(b"chain"),
    };
    let requests = requests.iter().map(|it| it.encode(7).unwrap());
    let responses = responses.iter().map(|it| it.encode(7).unwrap());
    let frames: Vec<Frame> = requests
        .chain(responses)
        .chain([greeting.encode()])
        .collect();
    for frame in frames {
        let bytes = [&frame.header[..], &frame.body].concat();
        said.push(("wire_frames", format!("{:02}", frame.header[8]), bytes));
    }
}

fn datagrams(said: &mut Vec<Said>) {
    let header = Header {
        epoch: EpochId([1; 8]),
        salt: [2; 16],
        counter: 3,
    };
    let sealed = [&header.encode()[..], &[9; 40]].concat();
    said.push(("wire_datagrams", "sealed".into(), sealed));
    let hash = ContentHash::of(b"x");
    let message = Message::Get { hashes: vec![hash] };
    said.push(("wire_datagrams", "get".into(), message.encode().unwrap()));
    let rumors = vec![Rumor::Statement(Bytes::from_static(b"statement"))];
    for (kind, frame) in [
        ("swim", DatagramFrame::Swim(Bytes::from_static(b"swim"))),
        ("rumors", DatagramFrame::Rumors(rumors)),
    ] {
        let body = Body {
            to: [8; 8],
            proof: None,
            frame,
        };
        said.push(("wire_datagrams", kind.into(), body.encode().unwrap()));
    }
}

fn trust(said: &mut Vec<Said>) {
    let mut ledger = Ledger::found(&key(), NodeName::new("lab").unwrap(), 10);
    let other = NodeId::new([7; 32]);
    let name = NodeName::new("other").unwrap();
    ledger.signer(&key(), 20).admit(other, name, true).unwrap();
    ledger
        .signer(&key(), 30)
        .own(b"docs".to_vec(), Some(other))
        .unwrap();
    ledger.signer(&key(), 40).rotate(EpochId([3; 8])).unwrap();
    ledger.signer(&key(), 50).expel(other).unwrap();
    let all = SignedStatement::encode_all(ledger.statements());
    said.push(("trust_statements", "ledger".into(), all));
    // The statements are in the order of their hashes, after the founding.
    for (number, statement) in ledger.statements().enumerate() {
        let kind = format!("statement-{number}");
        said.push(("trust_statements", kind, statement.encode()));
    }
    let token = InviteToken {
        issuer: other,
        seeds: vec!["192.0.2.1:1378".parse().unwrap()],
        key: [5; 32].into(),
        expires_unix_s: 1_700_000_000,
    };
    said.push(("trust_tokens", "token".into(), token.encode().into()));
}

fn planes(said: &mut Vec<Said>) {
    let name = Name::new(b"a file.txt").unwrap();
    let header = TransferHeader::new(name.clone(), 7).unwrap();
    let own = "10.0.0.1:1378".parse().unwrap();
    let peer = "10.0.0.2:1378".parse().unwrap();
    let list = encode_lists(own, &[peer]).remove(0);
    for (kind, bytes) in [
        ("get", encode_get(&name)),
        ("request", encode_request(&name)),
        ("header", header.encode().to_vec()),
        ("list", list),
    ] {
        said.push(("wire_legacy", kind.into(), bytes));
    }
    let talk = [
        encode_hello("us", "us"),
        encode_peers(&[peer]).unwrap(),
        encode_chat("hello").unwrap(),
        b"BYTES:80\n".to_vec(),
        encode_start(b"a.txt", 1, &[1; 32]),
        encode_end(b"a.txt", &[1; 32]),
    ];
    said.push(("wire_mesh", "talk".into(), talk.concat()));
}
