//! The speed of the mount beside its rivals, in one run: `cargo bench --bench versus`.
//!
//! Rivals that are not installed are named and left out (`apt install sshfs openssh-server
//! rclone`). Everything runs on loopback; files are in the page cache of the serving side, and
//! each cold read is of a file that nobody has read before. The rivals take turns, so that a
//! change of the machine's speed hits all of them. `P2PFS_BENCH_MIB` sets the size of the files
//! (1024), `P2PFS_BENCH_ROUNDS` the number of rounds (3).

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{Cluster, Node, eventually, is_mounted, noise, run, set_mode};

const MIB: usize = 1 << 20;

fn main() {
    if let Some(obstacle) = harness::mount_obstacle() {
        println!("SKIPPED, nothing measured: {obstacle}");
        return;
    }
    let size_mib = setting("P2PFS_BENCH_MIB", 1024);
    let rounds = setting("P2PFS_BENCH_ROUNDS", 3);
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["server", "reader"]);
    let folder = cluster.folder.path().to_owned();
    let sshfs = Sshfs::start(&folder, &nodes[0].share);
    let rclone = Rclone::start(&folder, &nodes[0].share);
    cold_sequential(
        &nodes,
        size_mib,
        rounds,
        sshfs.as_ref().ok(),
        rclone.as_ref().ok(),
    );
    warm_reads(&nodes, rounds);
    for missing in [sshfs.err(), rclone.err()].into_iter().flatten() {
        println!("not measured: {missing}");
    }
}

fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// One program's rates, a round each, in MiB/s.
struct Rates {
    name: &'static str,
    mib_per_s: Vec<f64>,
}

impl Rates {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            mib_per_s: vec![],
        }
    }

    fn median(&self) -> f64 {
        let mut sorted = self.mib_per_s.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

fn report(what: &str, ours: &Rates, rivals: &[Rates]) {
    println!("\n{what}");
    for rates in std::iter::once(ours).chain(rivals) {
        if rates.mib_per_s.is_empty() {
            continue;
        }
        let each: Vec<String> = rates
            .mib_per_s
            .iter()
            .map(|rate| format!("{rate:.0}"))
            .collect();
        let ratio = ours.median() / rates.median();
        println!(
            "  {:<22} {:>7.0} MiB/s (rounds: {})  p2pfs is {ratio:.2}x",
            rates.name,
            rates.median(),
            each.join(", ")
        );
    }
}

fn cold_sequential(
    nodes: &[Node],
    size_mib: usize,
    rounds: usize,
    sshfs: Option<&Sshfs>,
    rclone: Option<&Rclone>,
) {
    let mut ours = Rates::new("p2pfs mount");
    let mut get = Rates::new("p2pfs get");
    let mut others = [
        Rates::new("sshfs aes128-gcm"),
        Rates::new("rclone mount (http)"),
    ];
    for round in 0..rounds {
        let name = format!("cold-{round}.bin");
        let get_name = format!("cold-get-{round}.bin");
        make_file(&nodes[0], &name, round as u64, size_mib);
        make_file(&nodes[0], &get_name, 1000 + round as u64, size_mib);
        nodes[1].wait_for_file(&name);
        nodes[1].wait_for_file(&get_name);
        ours.mib_per_s.push(read_rate(&nodes[1].mounted(&name)));
        if let Some(sshfs) = sshfs {
            others[0]
                .mib_per_s
                .push(read_rate(&sshfs.mount.join(&name)));
        }
        if let Some(rclone) = rclone {
            others[1]
                .mib_per_s
                .push(read_rate(&rclone.mount.join(&name)));
        }
        get.mib_per_s.push(get_rate(&nodes[1], &get_name, size_mib));
        for name in [&name, &get_name] {
            fs::remove_file(nodes[0].share.join(name)).unwrap();
        }
        nodes[1].cli(&["cache", "clear"]).expect_ok();
    }
    let what = format!("cold sequential read, {size_mib} MiB from one peer");
    let [sshfs, rclone] = others;
    report(&what, &ours, &[sshfs, rclone, get]);
}

/// A new file in the share, in the page cache, under its name at once.
fn make_file(node: &Node, name: &str, seed: u64, size_mib: usize) {
    let staging = node.home.join(name);
    fs::write(&staging, noise(seed, size_mib * MIB)).unwrap();
    set_mode(&staging, 0o644);
    fs::rename(&staging, node.share.join(name)).unwrap();
}

fn read_rate(path: &Path) -> f64 {
    let mut buffer = vec![0; MIB];
    let start = Instant::now();
    let mut file = File::open(path).unwrap();
    let mut total = 0;
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            length => total += length,
        }
    }
    total as f64 / MIB as f64 / start.elapsed().as_secs_f64()
}

fn get_rate(node: &Node, name: &str, size_mib: usize) -> f64 {
    let start = Instant::now();
    node.cli(&["get", name, "-o", "/dev/null"]).expect_ok();
    size_mib as f64 / start.elapsed().as_secs_f64()
}

/// The same complete file through the mount and on the disk itself.
fn warm_reads(nodes: &[Node], rounds: usize) {
    let size_mib = 256;
    make_file(&nodes[0], "warm.bin", 99, size_mib);
    nodes[1].wait_for_file("warm.bin");
    let seen = nodes[1].mounted("warm.bin");
    let on_disk = nodes[0].share.join("warm.bin");
    let _ = (read_rate(&seen), read_rate(&on_disk));
    let mut sequential = [
        Rates::new("p2pfs mount"),
        Rates::new("the disk's filesystem"),
    ];
    let mut random = [
        Rates::new("p2pfs mount"),
        Rates::new("the disk's filesystem"),
    ];
    for _ in 0..rounds.max(5) {
        sequential[0].mib_per_s.push(read_rate(&seen));
        sequential[1].mib_per_s.push(read_rate(&on_disk));
        random[0].mib_per_s.push(random_rate(&seen, size_mib));
        random[1].mib_per_s.push(random_rate(&on_disk, size_mib));
    }
    let [ours, disk] = sequential;
    report("warm sequential read, 256 MiB", &ours, &[disk]);
    let [ours, disk] = random;
    report("warm random 4 KiB reads", &ours, &[disk]);
}

fn random_rate(path: &Path, size_mib: usize) -> f64 {
    let file = File::open(path).unwrap();
    let pages = (size_mib * MIB / 4096) as u64;
    let mut buffer = [0; 4096];
    let count = 50_000u64;
    let start = Instant::now();
    for number in 0..count {
        let page = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % pages;
        file.read_exact_at(&mut buffer, page * 4096).unwrap();
    }
    (count * 4096) as f64 / MIB as f64 / start.elapsed().as_secs_f64()
}

fn is_installed(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/usr/local/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists())
}

/// A port that is free now; the rivals cannot be told to choose one themselves.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// sshfs over an sshd of our own, with the fastest cipher that both have.
struct Sshfs {
    mount: PathBuf,
    _server: harness::Running,
}

impl Sshfs {
    fn start(folder: &Path, share: &Path) -> Result<Self, String> {
        if !is_installed("sshfs") || !is_installed("sshd") {
            return Err("sshfs (apt install sshfs openssh-server)".into());
        }
        let (home, mount) = (folder.join("ssh"), folder.join("sshfs"));
        [&home, &mount]
            .iter()
            .for_each(|dir| fs::create_dir_all(dir).unwrap());
        fs::create_dir_all("/run/sshd").map_err(|error| format!("sshfs: /run/sshd: {error}"))?;
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            run(keygen
                .args(["-q", "-N", "", "-t", "ed25519", "-f"])
                .arg(home.join(key)))
            .expect_ok();
        }
        fs::copy(home.join("user.pub"), home.join("authorized")).unwrap();
        let port = free_port().to_string();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n\
             Subsystem sftp internal-sftp\n",
            home.display()
        );
        fs::write(home.join("config"), config).unwrap();
        let mut sshd = Command::new("/usr/sbin/sshd");
        let server = harness::start(sshd.args(["-D", "-e", "-f"]).arg(home.join("config")));
        eventually("sshd listens", Duration::from_secs(20), || {
            std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok()
        });
        let mut sshfs = Command::new("sshfs");
        sshfs
            .arg(format!("127.0.0.1:{}", share.display()))
            .arg(&mount)
            .args(["-p", &port]);
        sshfs.args([
            "-o",
            "Ciphers=aes128-gcm@openssh.com",
            "-o",
            "StrictHostKeyChecking=no",
        ]);
        sshfs.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "Compression=no"]);
        sshfs
            .arg("-o")
            .arg(format!("IdentityFile={}", home.join("user").display()));
        let mounted = run(&mut sshfs);
        if !mounted.status.success() {
            return Err(format!("sshfs: {}", mounted.stderr.trim()));
        }
        Ok(Self {
            mount,
            _server: server,
        })
    }
}

impl Drop for Sshfs {
    fn drop(&mut self) {
        harness::detach(&self.mount);
        self._server.signal(libc::SIGTERM);
    }
}

/// rclone over its own plain HTTP server, with its full cache.
struct Rclone {
    mount: PathBuf,
    server: harness::Running,
    mounter: harness::Running,
}

impl Rclone {
    fn start(folder: &Path, share: &Path) -> Result<Self, String> {
        if !is_installed("rclone") {
            return Err("rclone (apt install rclone)".into());
        }
        let (cache, mount) = (folder.join("rclone-cache"), folder.join("rclone"));
        [&cache, &mount]
            .iter()
            .for_each(|dir| fs::create_dir_all(dir).unwrap());
        let address = format!("127.0.0.1:{}", free_port());
        let mut serve = Command::new("rclone");
        serve
            .args([
                "serve",
                "http",
                "--addr",
                &address,
                "--dir-cache-time",
                "0s",
            ])
            .arg(share);
        let server = harness::start(&mut serve);
        eventually("rclone serves", Duration::from_secs(20), || {
            std::net::TcpStream::connect(&address).is_ok()
        });
        let mut command = Command::new("rclone");
        command
            .args(["mount", ":http:"])
            .arg(&mount)
            .args(["--http-url"]);
        command
            .arg(format!("http://{address}"))
            .args(["--vfs-cache-mode", "full"]);
        command
            .args(["--dir-cache-time", "1s", "--read-only", "--cache-dir"])
            .arg(&cache);
        let mounter = harness::start(&mut command);
        eventually("rclone has mounted", Duration::from_secs(20), || {
            is_mounted(&mount)
        });
        Ok(Self {
            mount,
            server,
            mounter,
        })
    }
}

impl Drop for Rclone {
    fn drop(&mut self) {
        self.mounter.signal(libc::SIGTERM);
        harness::detach(&self.mount);
        self.server.signal(libc::SIGTERM);
    }
}
