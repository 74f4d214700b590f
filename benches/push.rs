//! The speed of a push beside its rivals, in one run: `cargo bench --bench push`.
//!
//! One file goes from a node into the inbox of another, from a node to a stand-in for a peer of the
//! older mesh, and by `scp` and `rsync` through a separate sshd. The stand-in writes the file to
//! the disk and checks its hash, as the original program does. All programs run on loopback, and
//! the file is in the page cache. A node verifies the whole file and syncs it before it has its
//! name. `scp` and `rsync` do not sync. The contestants take turns, another one first in each
//! round. Rivals that are not installed are named and left out (`apt install openssh-server
//! rsync`).
//!
//! | setting | meaning | default |
//! |---|---|---|
//! | `P2PFS_BENCH_MIB` | size of the file | 1024 |
//! | `P2PFS_BENCH_ROUNDS` | measurements of each contestant | 3 |

#[path = "versus/figures.rs"]
#[allow(dead_code, reason = "other benches use the rest")]
mod figures;
#[path = "versus/machine.rs"]
#[allow(dead_code, reason = "other benches use the rest")]
mod machine;
#[path = "versus/sshd.rs"]
#[allow(dead_code, reason = "other benches use the rest")]
mod sshd;
#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use figures::{Figures, Unit, report};
use sshd::{Sshd, is_installed};
use support::content::noise;
use support::daemon::{Cluster, Node, NodeOptions};
use support::process::{eventually, run};

const LIMIT: Duration = Duration::from_secs(600);

/// All contestants.
struct Field {
    sender: Node,
    receiver: Node,
    /// Signals each file that the stand-in has received.
    got: mpsc::Receiver<()>,
    sshd: Result<Sshd, String>,
    file: PathBuf,
    /// Folder for the rivals' copies.
    copies: PathBuf,
    _cluster: Cluster,
}

type Contestant = (&'static str, fn(&Field));

fn main() {
    let mib = setting("P2PFS_BENCH_MIB", 1024).max(1);
    let rounds = setting("P2PFS_BENCH_ROUNDS", 3).max(1);
    let field = Field::start(mib);
    let mut contestants: Vec<Contestant> = vec![
        ("p2pfs, to a node", to_node),
        ("p2pfs, to a mesh peer", to_mesh),
    ];
    for (name, program, push) in [
        ("scp, aes128-gcm", "scp", by_scp as fn(&Field)),
        ("rsync, aes128-gcm", "rsync", by_rsync),
    ] {
        match &field.sshd {
            Ok(_) if is_installed(program) => contestants.push((name, push)),
            Ok(_) => println!("not measured: {program} (apt install {program})"),
            Err(why) => println!("not measured: {program}: {why}"),
        }
    }
    let mut all: Vec<Figures> = contestants.iter().map(|it| Figures::new(it.0)).collect();
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let index = (turn + round) % contestants.len();
            machine::settle(&field.copies.join("scratch"));
            machine::read_file(&field.file);
            let begun = Instant::now();
            contestants[index].1(&field);
            all[index].add(mib as f64 / begun.elapsed().as_secs_f64());
            field.clear();
        }
    }
    report(&format!("a push of {mib} MiB"), Unit::MibPerS, &all);
}

/// Reads a number from the environment.
fn setting(name: &str, otherwise: usize) -> usize {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn to_node(field: &Field) {
    send(field, "receiver");
    assert!(field.inbox().join("file").exists());
}

fn to_mesh(field: &Field) {
    send(field, "stand-in");
    field.got.recv_timeout(LIMIT).expect("the stand-in has it");
}

fn send(field: &Field, to: &str) {
    let file = field.file.to_str().unwrap();
    field.sender.cli(&["send", file, "--to", to]).expect_ok();
}

fn by_scp(field: &Field) {
    let sshd = field.sshd.as_ref().unwrap();
    let mut scp = Command::new("scp");
    scp.args(["-q", "-P", &sshd.port.to_string()]);
    for option in sshd.options() {
        scp.args(["-o", &option]);
    }
    scp.arg(&field.file);
    run(scp.arg(format!("127.0.0.1:{}/", field.copies.display()))).expect_ok();
}

fn by_rsync(field: &Field) {
    let sshd = field.sshd.as_ref().unwrap();
    let options = sshd.options().map(|option| format!("-o {option}"));
    let shell = format!("ssh -q -p {} {}", sshd.port, options.join(" "));
    let mut rsync = Command::new("rsync");
    rsync.args(["--whole-file", "-e", &shell]).arg(&field.file);
    run(rsync.arg(format!("127.0.0.1:{}/", field.copies.display()))).expect_ok();
}

impl Field {
    fn start(mib: usize) -> Self {
        let mut cluster = Cluster::new();
        let folder = cluster.folder.path().to_owned();
        let copies = folder.join("copies");
        fs::create_dir_all(&copies).unwrap();
        let sshd = if is_installed("sshd") && is_installed("ssh-keygen") {
            Sshd::start(&folder.join("ssh"))
        } else {
            Err("sshd is missing (apt install openssh-server)".to_owned())
        };
        let file = folder.join("file");
        fs::write(&file, noise(7, mib << 20)).unwrap();
        let sender = start(&mut cluster, "sender");
        let receiver = start(&mut cluster, "receiver");
        let status = sender.cli(&["status", "--json"]).expect_json();
        let mesh = status["mesh"].as_str().unwrap().to_owned();
        let (has_it, got) = mpsc::channel();
        let place = copies.join("of-mesh");
        std::thread::spawn(move || stand_in(&mesh, &place, &has_it));
        eventually("all are there", LIMIT, || {
            let peers = sender.cli(&["peers"]).expect_ok();
            ["receiver", "stand-in"].iter().all(|it| peers.contains(it))
        });
        Self {
            sender,
            receiver,
            got,
            sshd,
            file,
            copies,
            _cluster: cluster,
        }
    }

    fn inbox(&self) -> PathBuf {
        self.receiver.home.join("inbox")
    }

    /// Removes the pushed files.
    fn clear(&self) {
        for place in [self.inbox().join("file"), self.copies.join("file")] {
            let _none = fs::remove_file(place);
        }
    }
}

fn start(cluster: &mut Cluster, name: &str) -> Node {
    let inbox = cluster.folder.path().join(name).join("inbox");
    let config = format!(
        "[mount]\nenabled = false\n[mesh]\nlisten = '127.0.0.1:0'\n\
         [inbox]\ndir = {inbox:?}\nfrom = ['*']\nfloor = '0B'\nbudget = '16GiB'\n"
    );
    cluster.start_with(NodeOptions {
        mounted: false,
        config,
        ..NodeOptions::new(name)
    })
}

/// Runs a mesh peer that receives files as the original program does: it reads each payload whole,
/// writes its bytes to the disk, and compares the hash at the end.
fn stand_in(mesh: &str, place: &Path, has_it: &mpsc::Sender<()>) {
    let mut stream = TcpStream::connect(mesh).unwrap();
    let id = "5".repeat(32);
    let hello = format!("{id}:stand-in\nLISTEN:localhost:9\n");
    stream.write_all(hello.as_bytes()).unwrap();
    let mut reader = BufReader::with_capacity(1 << 20, stream.try_clone().unwrap());
    let (mut file, mut hash, mut line) = (None, Context::new(&SHA256), Vec::new());
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
            return;
        }
        if line == b"PING\n" {
            stream.write_all(b"PONG\n").unwrap();
        }
        let length = std::str::from_utf8(&line).ok();
        let length = length.and_then(|line| line.trim().strip_prefix("BYTES:")?.parse().ok());
        let Some(length) = length else { continue };
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).unwrap();
        let end = payload.iter().position(|b| *b == b'\n').unwrap();
        let (head, body) = (&payload[..end], &payload[end + 1..]);
        if head.starts_with(b"FILESTART:") {
            (file, hash) = (Some(File::create(place).unwrap()), Context::new(&SHA256));
        } else if head.starts_with(b"FILECHUNK:") {
            hash.update(body);
            file.as_mut().unwrap().write_all(body).unwrap();
        } else if let Some(announced) = head.strip_prefix(b"FILEEND:file|") {
            let digest = std::mem::replace(&mut hash, Context::new(&SHA256)).finish();
            let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex.as_bytes(), announced, "other bytes came");
            file = None;
            has_it.send(()).unwrap();
        }
    }
}
