//! The service as it is shipped, in a real systemd: started, used by root and by an ordinary user,
//! reloaded, stopped. `tests/lab/systemd-box` boots the systemd in namespaces of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];

/// A systemd can be booted here.
fn booted_systemd() -> Option<String> {
    let tried = run(Command::new(lab("systemd-box")).args(["-n", "p2pfs-probe", "up"]));
    let _gone = run(Command::new(lab("systemd-box")).args(["-n", "p2pfs-probe", "down", "--kill"]));
    let why = tried.stderr.trim();
    (!tried.status.success()).then(|| format!("no systemd can be booted here: {why}"))
}

fn lab(tool: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/lab")
        .join(tool)
}

/// A booted systemd that is powered off when the test ends.
struct SystemdBox {
    name: String,
}

impl SystemdBox {
    fn up() -> Self {
        let this = Self {
            name: format!("p2pfs-{}", std::process::id()),
        };
        this.tool(&["up"]).expect_ok();
        this
    }

    fn tool(&self, arguments: &[&str]) -> Finished {
        run(Command::new(lab("systemd-box"))
            .args(["-n", &self.name])
            .args(arguments))
    }

    fn put(&self, from: &Path, to: &str) {
        self.tool(&["put", from.to_str().unwrap(), to]).expect_ok();
    }

    fn write(&self, to: &str, text: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, text).unwrap();
        set_mode(&file, 0o644);
        self.put(&file, to);
    }

    fn sh(&self, line: &str) -> Finished {
        self.tool(&["exec", "--", "sh", "-c", line])
    }

    fn sh_as(&self, user: &str, line: &str) -> Finished {
        self.tool(&["exec", "-u", user, "--", "sh", "-c", line])
    }

    #[track_caller]
    fn ok(&self, line: &str) -> String {
        let finished = self.sh(line);
        if !finished.status.success() {
            let journal = self.sh("journalctl --no-pager -u p2pfs -u second").text();
            panic!(
                "{line}: {:?}\n{}{journal}",
                finished.status, finished.stderr
            );
        }
        finished.text()
    }
}

impl Drop for SystemdBox {
    fn drop(&mut self) {
        let _gone = self.tool(&["down", "--kill"]);
    }
}

fn packaging(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(file)
}

/// The service and a second node of the same cluster, which shares one large file.
fn boot_cluster() -> SystemdBox {
    let machine = SystemdBox::up();
    machine.put(Path::new(P2PFS), "/usr/bin/p2pfs");
    machine.put(
        &packaging("p2pfs.service"),
        "/etc/systemd/system/p2pfs.service",
    );
    machine.ok("mkdir -p /etc/p2pfs/p2pfs.toml.d /srv/shared /root/second/share");
    machine.put(&packaging("p2pfs.toml"), "/etc/p2pfs/p2pfs.toml");
    machine.ok("ip link set lo up");
    machine.ok(&format!(
        "echo {} > /etc/p2pfs/secret; chmod 600 /etc/p2pfs/secret",
        "ab".repeat(32)
    ));
    machine.write(
        "/etc/p2pfs/p2pfs.toml.d/test.toml",
        "listen = \"127.0.0.1:1378\"\nseeds = [\"127.0.0.1:1379\"]\n\
         secret_file = \"/etc/p2pfs/secret\"\n[[share]]\ndir = \"/srv/shared\"\n",
    );
    machine.ok("echo mine > /srv/shared/mine.txt; chmod -R a+rX /srv/shared");
    machine.ok("head -c 20000000 /dev/urandom > /root/second/share/resume.pdf");
    machine.ok("chmod a+rx /root/second /root/second/share; chmod a+r /root/second/share/*");
    machine.ok(
        "cp /etc/p2pfs/secret /root/second/secret; touch /root/second/p2pfs.toml; \
         systemd-run --unit=second /usr/bin/p2pfs daemon --config /root/second/p2pfs.toml \
         --name second --listen 127.0.0.1:1379 --seed 127.0.0.1:1378 \
         --secret-file /root/second/secret --state /root/second/state --cache /root/second/cache \
         --socket /root/second/sock --mount /root/second/mnt --share /root/second/share",
    );
    machine
}

#[apply(promise)]
fn the_shipped_service_mounts_for_everyone_and_stops_cleanly() {
    let machine = boot_cluster();
    machine.ok("systemctl daemon-reload && systemctl start p2pfs");
    assert_eq!(machine.ok("systemctl is-active p2pfs").trim(), "active");
    machine.ok("p2pfs wait --mounted --peers 1 --file resume.pdf --timeout 30s");
    machine.ok("p2pfs wait --file mine.txt --timeout 30s");
    assert_eq!(machine.ok("ls /mnt/p2p").trim(), "mine.txt\nresume.pdf");
    machine
        .ok("cp /mnt/p2p/resume.pdf /root/ && cmp /root/resume.pdf /root/second/share/resume.pdf");

    let listed = machine.sh_as("nobody", "ls /mnt/p2p").expect_ok();
    assert_eq!(listed.trim(), "mine.txt\nresume.pdf");
    machine
        .sh_as("nobody", "cp /mnt/p2p/resume.pdf /tmp/nobody.pdf")
        .expect_ok();
    machine.ok("cmp /tmp/nobody.pdf /root/second/share/resume.pdf");
    machine.sh_as("nobody", "p2pfs status").expect_ok();
    assert!(!machine.sh_as("nobody", "p2pfs invite").status.success());

    machine.ok("systemctl reload p2pfs");
    assert_eq!(machine.ok("systemctl is-active p2pfs").trim(), "active");
    assert_eq!(machine.ok("ls /mnt/p2p").trim(), "mine.txt\nresume.pdf");

    machine.ok("systemctl stop p2pfs");
    let left = machine.ok("grep -c ' /mnt/p2p ' /proc/self/mountinfo || true");
    assert_eq!(left.trim(), "0");
    let result = machine.ok("systemctl show -p Result --value p2pfs");
    assert_eq!(result.trim(), "success");
    let loud = machine.ok("journalctl -q --no-pager -u p2pfs -p warning..emerg -o cat || true");
    assert_eq!(loud, "", "the journal has warnings");
    eventually("the box settles", Duration::from_secs(30), || {
        machine.sh("systemctl is-failed p2pfs").text().trim() == "inactive"
    });
}
