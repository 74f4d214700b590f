//! The Debian package: what installing opens, asks and says, an upgrade while somebody reads, and
//! what removing and purging leave.

use std::path::{Path, PathBuf};
use std::process::Command;

use macro_rules_attribute::apply;

use super::service::{SystemdBox, booted_systemd};
use crate::support::process::{P2PFS, run};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, packager, booted_systemd, mount];

/// Packages can be made here.
fn packager() -> Option<String> {
    let tried = run(Command::new("cargo").args(["deb", "--version"]));
    let remedy = "no package can be made here: cargo install cargo-deb";
    (!tried.status.success()).then(|| remedy.to_owned())
}

/// A package of the program under test.
fn package(folder: &Path, version: &str) -> PathBuf {
    let program = folder.join("release/p2pfs");
    std::fs::create_dir_all(folder.join("release")).unwrap();
    run(Command::new("strip").arg("-o").arg(&program).arg(P2PFS)).expect_ok();
    let made = folder.join(format!("{version}.deb"));
    let mut packager = Command::new("cargo");
    packager
        .args([
            "deb",
            "--no-build",
            "--no-strip",
            "--fast",
            "--deb-version",
            version,
            "-o",
        ])
        .arg(&made)
        .env("CARGO_TARGET_DIR", folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    run(&mut packager).expect_ok();
    made
}

/// Everything of that name outside of what the box shares with the machine.
const FILES: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /tmp -o -path /work \
    -o -path /root \\) -prune -o -name '*p2pfs*' -print 2>/dev/null | sort";

/// A second node, which is not of the package, with a large file.
fn start_second(machine: &SystemdBox) {
    machine.ok(
        "ip link set lo up; mkdir -p /srv/shared /root/second/share /etc/p2pfs/p2pfs.toml.d && \
         echo mine > /srv/shared/mine.txt && chmod -R a+rX /srv && \
         head -c 400000000 /dev/urandom > /root/second/share/large && \
         chmod a+rx /root/second /root/second/share && chmod a+r /root/second/share/large",
    );
    machine.ok(&format!(
        "echo {} > /etc/p2pfs/secret; chmod 600 /etc/p2pfs/secret; \
         cp /etc/p2pfs/secret /root/second",
        "ab".repeat(32)
    ));
    machine.write(
        "/etc/p2pfs/p2pfs.toml.d/test.toml",
        "listen = \"127.0.0.1:1378\"\nseeds = [\"127.0.0.1:1379\"]\n",
    );
    machine.ok(
        "cp /usr/bin/p2pfs /root/second/program; touch /root/second/p2pfs.toml; \
         systemd-run --unit=second /root/second/program daemon --config /root/second/p2pfs.toml \
         --name second --listen 127.0.0.1:1379 --seed 127.0.0.1:1378 \
         --secret-file /root/second/secret --state /root/second/state --cache /root/second/cache \
         --socket /root/second/sock --mount /root/second/mnt --share /root/second/share",
    );
}

#[apply(promise)]
fn a_package_installs_quietly_upgrades_under_readers_and_leaves_nothing_when_purged() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (
        package(folder.path(), "0.1.0-1"),
        package(folder.path(), "0.1.0-2"),
    );
    let machine = SystemdBox::up();
    machine.put(&first, "/root/first.deb");
    machine.put(&second, "/root/second.deb");
    let before = machine.ok(FILES);

    let said = machine.ok("dpkg -i /root/first.deb < /dev/null");
    assert!(said.contains("systemctl enable --now p2pfs"), "{said}");
    assert_eq!(
        machine.sh("systemctl is-active p2pfs").text().trim(),
        "inactive"
    );
    assert_eq!(
        machine.sh("systemctl is-enabled p2pfs").text().trim(),
        "disabled"
    );
    for file in ["bash-completion/completions/p2pfs", "man/man8/p2pfs.8.gz"] {
        machine.ok(&format!("test -s /usr/share/{file}"));
    }
    let completes = ". /usr/share/bash-completion/completions/p2pfs; complete -p p2pfs";
    machine.ok(&format!("bash -c '{completes}'"));

    start_second(&machine);
    machine.ok("systemctl enable --now p2pfs && p2pfs share add /srv/shared");
    machine.ok("p2pfs wait --file large --timeout 60s && p2pfs wait --file mine.txt");
    machine.ok("sha256sum < /root/second/share/large > /root/want; \
         sha256sum < /mnt/p2p/large > /root/got & sleep 0.3; \
         dpkg -i /root/second.deb && wait && cmp /root/want /root/got");
    assert!(machine.ok("dpkg -s p2pfs").contains("Version: 0.1.0-2"));
    machine.ok("systemctl is-active p2pfs && p2pfs wait --file large --timeout 30s");

    machine.ok("dpkg -r p2pfs && test -s /var/lib/p2pfs/node.key");
    assert!(
        !machine
            .sh("systemctl is-active p2pfs p2pfs-broker")
            .status
            .success()
    );
    machine.ok("! grep -q ' /mnt/p2p ' /proc/self/mountinfo");
    machine.ok("dpkg -P p2pfs");
    assert_eq!(machine.ok(FILES), before);
    machine.ok("! getent passwd p2pfs && ! getent group p2pfs && ! test -e /mnt/p2p");
}
