//! Two hosts 20 ms and 100 MB/s apart: small files, with the programs that read them.
//!
//! sshfs takes two round trips a file, so it gets a tenth of the files to copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::figures::{Figures, Unit, report};
use crate::support::daemon::set_mode;
use crate::support::lab::{Lab, far_hosts};
use crate::support::process::{P2PFS, Running, eventually, run, start};
use crate::trials::{count_files, make_small_files};
use crate::{Field, setting, waste};

const LINK: [&str; 4] = ["--delay", "10ms", "--rate", "800mbit"];
const SERVER: &str = "10.77.0.1";
const START_LIMIT: Duration = Duration::from_secs(60);
/// Number of files that are searched, and in the repository.
const SEARCHED_FILES: usize = 500;
const COMMITTED_FILES: usize = 100;
const COMMITS: usize = 10;
/// Directories of which one file in ten is read.
const SPARSE: [&str; 2] = ["each", "scattered"];

/// The two hosts and their processes.
struct Far {
    lab: Lab,
    folder: tempfile::TempDir,
    _running: Vec<Running>,
}

/// One way to read the server's folder.
struct Way {
    name: &'static str,
    mount: PathBuf,
    /// Directory that it copies.
    copied: &'static str,
}

pub(crate) fn far(field: &Field) {
    if let Some(obstacle) = far_hosts() {
        return println!("not measured at 20 ms: {obstacle}");
    }
    let count = setting("P2PFS_BENCH_FILES", 5000);
    let far = Far::new();
    let rival = far.path("sshfs");
    let mut ways = vec![Way {
        name: "p2pfs",
        mount: far.path("n2/mnt"),
        copied: "all",
    }];
    let sshfs = far.sshfs(&rival);
    if sshfs.is_some() {
        ways.push(Way {
            name: "sshfs",
            mount: rival,
            copied: "tenth",
        });
    }
    let figures = || {
        ways.iter()
            .map(|way| Figures::new(way.name))
            .collect::<Vec<_>>()
    };
    let (mut copies, mut searches, mut clones) = (figures(), figures(), figures());
    let mut wastes = waste::figures();
    for round in 0..field.rounds {
        far.publish(&format!("{round}"), round as u64, count);
        for (turn, way) in ways.iter().enumerate() {
            let at = way.mount.join(format!("{round}"));
            copies[turn].add(far.copy(&at.join(way.copied)));
            searches[turn].add(far.timed(&["grep", "-r", "no such words"], &at.join("searched")));
            clones[turn].add(far.clone_of(&at.join("repository.git")));
        }
        for (number, figures) in wastes.iter_mut().enumerate() {
            let tree = ways[0].mount.join(format!("{round}")).join(SPARSE[number]);
            let socket = far.path("n2/socket");
            figures.add(waste::percent(far.lab.on("n2"), &socket, &tree, number));
        }
    }
    let tenth = "sshfs copied a tenth of them";
    let what = format!("cp -r of {count} cold files of 1 to 16 KiB, 20 ms away; {tenth}");
    report(&what, Unit::Seconds, &copies);
    let what = format!("grep -r in {SEARCHED_FILES} such files");
    report(&what, Unit::Seconds, &searches);
    report("git clone from there", Unit::Seconds, &clones);
    report(&waste::what(count), Unit::Percent, &wastes);
    drop(sshfs);
}

impl Far {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("p2pfs-far-")
            .tempdir()
            .unwrap();
        set_mode(folder.path(), 0o755);
        let lab = Lab::up("2", &LINK);
        let seed = format!("{SERVER}:1378");
        let running = vec![
            daemon(&lab, "n1", folder.path(), &[]),
            daemon(&lab, "n2", folder.path(), &["--seed", &seed]),
        ];
        for host in ["n1", "n2"] {
            let mut wait = Command::new(P2PFS);
            wait.args(["wait", "--mounted", "--peers", "1", "--timeout", "60s"]);
            run(wait
                .arg("--socket")
                .arg(folder.path().join(host).join("socket")))
            .expect_ok();
        }
        Self {
            lab,
            folder,
            _running: running,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts sshfs on the reading host, if it is installed. The last process is its client.
    fn sshfs(&self, mount: &Path) -> Option<[Running; 2]> {
        let installed = |program: &str| Path::new(program).exists();
        if !installed("/usr/bin/sshfs") || !installed("/usr/sbin/sshd") {
            println!("not measured at 20 ms: sshfs (apt install sshfs openssh-server)");
            return None;
        }
        let home = self.path("ssh");
        [&home, mount]
            .iter()
            .for_each(|dir| fs::create_dir_all(dir).unwrap());
        fs::create_dir_all("/run/sshd").unwrap();
        for key in ["host", "user"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-N", "", "-t", "ed25519", "-f"]);
            run(keygen.arg(home.join(key))).expect_ok();
        }
        fs::copy(home.join("user.pub"), home.join("authorized")).unwrap();
        let config = format!(
            "ListenAddress {SERVER}:2222\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n\
             Subsystem sftp internal-sftp\n",
            home.display()
        );
        fs::write(home.join("config"), config).unwrap();
        let mut sshd = self.lab.on("n1");
        let server = start(
            sshd.args(["/usr/sbin/sshd", "-D", "-e", "-f"])
                .arg(home.join("config")),
        );
        let listens = ["bash", "-c", "exec 3<>/dev/tcp/10.77.0.1/2222"];
        eventually("sshd listens", START_LIMIT, || {
            run(self.lab.on("n2").args(listens)).status.success()
        });
        let mut sshfs = self.lab.on("n2");
        let share = self.path("n1/share");
        sshfs
            .arg("sshfs")
            .arg(format!("{SERVER}:{}", share.display()))
            .arg(mount);
        sshfs.args(["-f", "-p", "2222", "-o", "Ciphers=aes128-gcm@openssh.com"]);
        sshfs.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]);
        sshfs
            .arg("-o")
            .arg(format!("IdentityFile={}", home.join("user").display()));
        let client = start(&mut sshfs);
        eventually("sshfs has mounted", START_LIMIT, || {
            run(self.lab.on("n2").args(["mountpoint", "-q"]).arg(mount))
                .status
                .success()
        });
        Some([server, client])
    }

    /// Puts the files of a round into the server's share, and waits until the reader lists them.
    fn publish(&self, round: &str, seed: u64, count: usize) {
        let staged = self.path("n1").join(round);
        for (name, count) in [
            ("all", count),
            ("tenth", count / 10),
            ("searched", SEARCHED_FILES),
            (SPARSE[0], count),
            (SPARSE[1], count),
        ] {
            make_small_files(&staged.join(name), seed * 10 + name.len() as u64, count);
        }
        make_repository(&staged);
        // The files are old enough not to be hashed again during a turn.
        run(Command::new("find").arg(&staged).args([
            "-exec",
            "touch",
            "-d",
            "2001-09-09",
            "{}",
            "+",
        ]))
        .expect_ok();
        fs::rename(&staged, self.path("n1/share").join(round)).unwrap();
        let wanted = ["all", "tenth", "searched", "repository.git"];
        let wanted = wanted.iter().chain(&SPARSE);
        let share = self.path("n1/share").join(round);
        for name in wanted {
            let files = |root: &Path| {
                let found = run(self.lab.on("n2").arg("find").arg(root).args(["-type", "f"]));
                found.text().lines().count()
            };
            let all = files(&share.join(name));
            let mounted = self.path("n2/mnt").join(round).join(name);
            eventually("all files are listed", START_LIMIT, || {
                files(&mounted) == all
            });
        }
    }

    fn copy(&self, from: &Path) -> f64 {
        let to = self.path("copy");
        let mut cp = self.lab.on("n2");
        let begun = Instant::now();
        run(cp.args(["cp", "-r"]).arg(from).arg(&to)).expect_ok();
        let took = begun.elapsed().as_secs_f64();
        assert!(
            count_files(&to) > 0,
            "nothing copied from {}",
            from.display()
        );
        fs::remove_dir_all(&to).unwrap();
        took
    }

    fn timed(&self, command: &[&str], on: &Path) -> f64 {
        let begun = Instant::now();
        let found = run(self.lab.on("n2").args(command).arg(on));
        // grep found no match, which is expected.
        assert_eq!(found.status.code(), Some(1), "{}", found.stderr);
        begun.elapsed().as_secs_f64()
    }

    fn clone_of(&self, repository: &Path) -> f64 {
        let to = self.path("clone");
        let begun = Instant::now();
        let mut git = self.lab.on("n2");
        git.args(["git", "-c", "safe.directory=*", "clone", "-q"]);
        run(git.arg(repository).arg(&to)).expect_ok();
        let took = begun.elapsed().as_secs_f64();
        assert_eq!(fs::read_dir(&to).unwrap().count(), COMMITTED_FILES + 1);
        fs::remove_dir_all(&to).unwrap();
        took
    }
}

fn daemon(lab: &Lab, host: &str, folder: &Path, more: &[&str]) -> Running {
    let home = folder.join(host);
    for name in ["share", "mnt"] {
        fs::create_dir_all(home.join(name)).unwrap();
        set_mode(&home.join(name), 0o755);
    }
    set_mode(&home, 0o755);
    fs::write(home.join("config"), "").unwrap();
    fs::write(home.join("secret-file"), format!("{}\n", "c3".repeat(32))).unwrap();
    set_mode(&home.join("secret-file"), 0o600);
    let mut command = lab.on(host);
    command.arg(P2PFS).args(["daemon", "--name", host]);
    for name in ["config", "secret-file", "state", "cache", "socket"] {
        command.arg(format!("--{name}")).arg(home.join(name));
    }
    command.arg("--mount").arg(home.join("mnt"));
    command.arg("--share").arg(home.join("share"));
    start(command.args(more))
}

/// Creates a repository whose objects are loose, as git leaves them: one file each.
fn make_repository(beside: &Path) {
    let work = beside.with_extension("work");
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args([
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@example.org",
        ]);
        run(git.arg("-C").arg(&work).args(arguments)).expect_ok();
    };
    fs::create_dir(&work).unwrap();
    git(&["init", "-q"]);
    for commit in 0..COMMITS {
        for number in (commit..COMMITTED_FILES).step_by(COMMITS) {
            let text = format!("file {number} of commit {commit}\n").repeat(100);
            fs::write(work.join(number.to_string()), text).unwrap();
        }
        git(&["add", "."]);
        git(&["-c", "gc.auto=0", "commit", "-q", "-m", "more files"]);
    }
    fs::rename(work.join(".git"), beside.join("repository.git")).unwrap();
    fs::remove_dir_all(&work).unwrap();
}
