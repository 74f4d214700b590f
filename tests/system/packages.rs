//! The Debian package: what an installation opens, asks and prints, writing into the mount, an
//! upgrade during a read, and what removing and purging leave.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use macro_rules_attribute::apply;

use super::service::{SystemdBox, booted_systemd};
use crate::support::daemon::set_mode;
use crate::support::process::{HANG_LIMIT, P2PFS, eventually, run};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];

/// Returns the package's section of Cargo.toml.
fn metadata() -> toml::Table {
    let text = include_str!("../../Cargo.toml");
    let manifest: toml::Table = text.parse().unwrap();
    let package = &manifest["package"]["metadata"]["deb"];
    package.as_table().unwrap().clone()
}

fn text<'a>(table: &'a toml::Table, key: &str) -> &'a str {
    table[key].as_str().unwrap()
}

/// Installs all files with their modes, as `cargo deb` does from Cargo.toml. The program is the one
/// under test, stripped.
fn lay_out(root: &Path) {
    for asset in metadata()["assets"].as_array().unwrap() {
        let [from, to, mode] = [0, 1, 2].map(|field| asset[field].as_str().unwrap());
        let mut to = root.join(to);
        if asset[1].as_str().unwrap().ends_with('/') {
            to = to.join(Path::new(from).file_name().unwrap());
        }
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        match from.strip_prefix("target/release/") {
            Some("p2pfs") => {
                run(Command::new("strip").arg("-o").arg(&to).arg(P2PFS)).expect_ok();
            }
            Some(other) => panic!("{other} is not built by this test"),
            None => {
                let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(from);
                fs::copy(source, &to).unwrap();
            }
        }
        set_mode(&to, u32::from_str_radix(mode, 8).unwrap());
        if to.starts_with(root.join("usr/share/man")) {
            run(Command::new("gzip").arg("-9n").arg(&to)).expect_ok();
        }
    }
}

/// Builds a package of the program under test with dpkg-deb, from the same list and scripts as
/// `cargo deb`.
fn package(folder: &Path, version: &str) -> PathBuf {
    let (root, made) = (folder.join(version), folder.join(format!("{version}.deb")));
    lay_out(&root);
    let control = root.join("DEBIAN");
    fs::create_dir(&control).unwrap();
    let metadata = metadata();
    let depends = text(&metadata, "depends").trim_start_matches("$auto, ");
    let described = format!(
        "Package: p2pfs\nVersion: {version}\nArchitecture: {}\nMaintainer: {}\n\
         Depends: {depends}\nDescription: {}\n",
        run(Command::new("dpkg").arg("--print-architecture"))
            .expect_ok()
            .trim(),
        text(&metadata, "maintainer"),
        env!("CARGO_PKG_DESCRIPTION")
    );
    fs::write(control.join("control"), described).unwrap();
    let kept: Vec<&str> = metadata["conf-files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file.as_str().unwrap())
        .collect();
    fs::write(control.join("conffiles"), kept.join("\n") + "\n").unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join(text(&metadata, "maintainer-scripts"));
    for script in fs::read_dir(scripts).unwrap() {
        let script = script.unwrap();
        let copy = control.join(script.file_name());
        fs::copy(script.path(), &copy).unwrap();
        set_mode(&copy, 0o755);
    }
    let mut packager = Command::new("dpkg-deb");
    packager.args(["--build", "--root-owner-group", "-Znone"]);
    run(packager.arg(&root).arg(&made)).expect_ok();
    made
}

/// Finds all files with that name outside of the folders that the box shares with the machine.
const FILES: &str = "find / -xdev \\( -path /proc -o -path /sys -o -path /tmp -o -path /work \
    -o -path /root \\) -prune -o -name '*p2pfs*' -print 2>/dev/null | sort";

/// Boots a machine on which dpkg does not index all manual pages of the machine after each change.
/// One such index took 16 s of a processor, which the other tests lacked.
fn machine() -> SystemdBox {
    let machine = SystemdBox::up();
    machine.ok("rm -f /var/lib/man-db/auto-update");
    machine
}

/// Starts a second node, which is not from the package, with a file of this length.
fn start_second(machine: &SystemdBox, large_bytes: u64) {
    machine.ok(&format!(
        "ip link set lo up; mkdir -p /srv/shared /root/second/share /etc/p2pfs/p2pfs.toml.d && \
         echo mine > /srv/shared/mine.txt && chmod -R a+rX /srv && \
         head -c {large_bytes} /dev/urandom > /root/second/share/large && \
         chmod a+rx /root/second /root/second/share && chmod a+r /root/second/share/large",
    ));
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
#[takes("dpkg-deb", "dpkg", "gzip", "strip")]
fn a_package_installs_quietly_upgrades_under_readers_and_is_purged_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (
        package(folder.path(), "0.1.0-1"),
        package(folder.path(), "0.1.0-2"),
    );
    let machine = machine();
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

    start_second(&machine, 400_000_000);
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
    machine.ok("! systemctl list-units --all --no-legend 'p2pfs*' | grep .");
    machine.ok("! systemctl list-unit-files --no-legend 'p2pfs*' | grep .");
    let refused = "5d0e8f43a1c94c2c9f8c1f6a2b7f4e10";
    machine.ok(&format!(
        "! journalctl --list-catalog {refused} 2>&1 | grep -i p2pfs"
    ));
}

#[apply(promise)]
#[takes("dpkg-deb", "dpkg", "gzip", "strip")]
fn a_purge_of_the_package_keeps_received_files_for_the_users_of_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine();
    machine.put(&package(folder.path(), "0.1.0-1"), "/root/p2pfs.deb");
    machine.ok("dpkg -i /root/p2pfs.deb < /dev/null");
    start_second(&machine, 1000);
    machine.write(
        "/etc/p2pfs/p2pfs.toml.d/inbox.toml",
        "name = \"first\"\n[inbox]\nfrom = [\"*\"]\n",
    );
    machine.ok("systemctl start p2pfs && p2pfs wait --peers 1 --timeout 60s");
    machine.ok("mkdir -p /root/album && echo received | tee /root/note > /root/album/photo");
    for sent in ["note", "album"] {
        machine.ok(&format!(
            "p2pfs send /root/{sent} --to first --socket /root/second/sock"
        ));
    }
    machine.ok("p2pfs wait --file note --timeout 30s && p2pfs wait --file photo --timeout 30s");

    let said = machine.ok("dpkg -P p2pfs");
    let (inbox, is_said) = ("/var/lib/p2pfs-inbox", "received files stay in");
    assert!(said.contains(&format!("{is_said} {inbox}")), "{said}");
    machine.ok("! getent passwd p2pfs && ! test -e /var/lib/p2pfs && ! test -e /var/cache/p2pfs");
    for file in ["note", "photo"] {
        let read = machine.sh_as("nobody", &format!("cat {inbox}/{file}"));
        assert_eq!(read.expect_ok().trim(), "received");
        let owner = machine.ok(&format!("stat -c %U {inbox}/{file}"));
        assert_eq!(owner.trim(), "root");
    }
}

/// The folder that takes what programs write into the mount of the package.
const FILES_DIR: &str = "/var/lib/p2pfs/files";

#[apply(promise)]
#[takes("dpkg-deb", "dpkg", "gzip", "strip")]
fn root_and_the_group_write_into_the_mount_of_the_package_and_a_purge_keeps_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine();
    machine.put(&package(folder.path(), "0.1.0-1"), "/root/p2pfs.deb");
    let said = machine.ok("dpkg -i /root/p2pfs.deb < /dev/null");
    assert!(said.contains("write into /mnt/p2p"), "{said}");
    start_second(&machine, 1000);
    machine.ok("useradd --groups p2pfs member && useradd other && echo resume > /root/resume.pdf");

    machine.ok("systemctl enable --now p2pfs && cp /root/resume.pdf /mnt/p2p/");
    let writes = "mkdir /mnt/p2p/docs && echo mine > /mnt/p2p/docs/a && mv /mnt/p2p/docs/a \
                  /mnt/p2p/docs/b && echo more >> /mnt/p2p/resume.pdf";
    machine.sh_as("member", writes).expect_ok();
    let restores = "rm /mnt/p2p/docs/b && p2pfs ls --deleted docs && p2pfs restore docs/b";
    machine.sh_as("member", restores).expect_ok();
    let refused = machine.sh_as("other", "p2pfs restore docs/b").stderr;
    assert!(
        refused.contains("right to write into the mount"),
        "{refused}"
    );
    for refused in ["touch /mnt/p2p/new", "rm -f /mnt/p2p/docs/b"] {
        let refused = machine.sh_as("other", refused);
        assert!(!refused.status.success(), "another user wrote");
        assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
    }
    let read = machine.sh_as("other", "cat /mnt/p2p/docs/b /mnt/p2p/resume.pdf");
    assert_eq!(read.expect_ok(), "mine\nresume\nmore\n");
    for file in ["docs/b", "resume.pdf"] {
        let wait = format!("p2pfs wait --file {file} --timeout 60s --socket /root/second/sock");
        machine.ok(&wait);
        eventually("the other node has the last bytes", HANG_LIMIT, || {
            let compare = format!("cmp /mnt/p2p/{file} /root/second/mnt/{file}");
            machine.sh(&compare).status.success()
        });
    }
    let said = machine.sh("p2pfs write off").stderr;
    assert!(
        said.contains("/etc/p2pfs/p2pfs.toml.d/write.toml"),
        "{said}"
    );

    let said = machine.ok("dpkg -P p2pfs");
    assert!(
        said.contains(&format!("written files stay in {FILES_DIR}")),
        "{said}"
    );
    machine.ok("! getent group p2pfs && ! test -e /var/cache/p2pfs && ! test -e /etc/p2pfs");
    assert_eq!(machine.ok("ls -A /var/lib/p2pfs").trim(), "files");
    let kept = machine.sh_as("nobody", &format!("cd {FILES_DIR} && cat docs/b && ls -A"));
    assert_eq!(kept.expect_ok(), "mine\ndocs\nresume.pdf\n");
    let owner = machine.ok(&format!("stat -c %U {FILES_DIR}/docs/b"));
    assert_eq!(owner.trim(), "root");
}

#[apply(promise)]
#[takes("dpkg-deb", "dpkg", "gzip", "strip")]
fn the_mount_of_the_package_is_writable_as_its_configuration_says_after_each_reload() {
    let folder = tempfile::tempdir().unwrap();
    let machine = machine();
    machine.put(&package(folder.path(), "0.1.0-1"), "/root/p2pfs.deb");
    machine.ok("dpkg -i /root/p2pfs.deb < /dev/null && ip link set lo up");
    let file = "/etc/p2pfs/p2pfs.toml.d/write.toml";
    let turn = |from: &str, to: &str| {
        machine.ok(&format!(
            "sed -i 's/^writable = {from}/writable = {to}/' {file} && systemctl reload p2pfs"
        ));
    };
    let is_listed_as = |wanted: &str| {
        let find = "findmnt -n -o OPTIONS /mnt/p2p";
        eventually(wanted, HANG_LIMIT, || {
            machine.ok(find).split(',').next() == Some(wanted)
        });
    };
    machine.ok("systemctl enable --now p2pfs && echo first > /mnt/p2p/file && p2pfs invite");
    machine.ok("! systemctl show -p CapabilityBoundingSet --value p2pfs | grep .");
    turn("true", "false");
    is_listed_as("ro");
    let refused = machine.sh("touch /mnt/p2p/new");
    assert!(
        refused.stderr.contains("Read-only file system"),
        "{refused:?}"
    );
    machine.ok("p2pfs wait --file file && cat /mnt/p2p/file");
    turn("false", "true");
    is_listed_as("rw");
    machine.ok("echo second > /mnt/p2p/file");
    machine.ok("systemctl restart p2pfs && echo third >> /mnt/p2p/file");
    machine.ok("systemctl stop p2pfs p2pfs-broker && mv /etc/p2pfs/p2pfs.toml.d/write.toml /root");
    machine.ok("systemctl start p2pfs");
    is_listed_as("ro");
    machine.ok("p2pfs write on && mv /root/write.toml /etc/p2pfs/p2pfs.toml.d");
    is_listed_as("rw");
    machine.ok("echo fourth >> /mnt/p2p/file");
    let written = machine.ok(&format!("cat {FILES_DIR}/file"));
    assert_eq!(written, "second\nthird\nfourth\n");
}
