//! The shipped service in a real systemd: started, used by root and by an ordinary user, reloaded,
//! stopped. `tests/lab/systemd-box` boots the systemd in separate namespaces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];

/// Returns why no systemd can be booted here, if so.
pub(crate) fn booted_systemd() -> Option<String> {
    let name = format!("p2pfs-{}-probe", std::process::id());
    let tool = |command: &[&str]| {
        run(Command::new(lab("systemd-box"))
            .args(["-n", &name])
            .args(command))
    };
    let tried = tool(&["up"]);
    let _gone = tool(&["down", "--kill"]);
    let why = tried.stderr.trim();
    (!tried.status.success()).then(|| format!("no systemd can be booted here: {why}"))
}

fn lab(tool: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/lab")
        .join(tool)
}

/// A booted systemd that is powered off when the test ends.
pub(crate) struct SystemdBox {
    name: String,
}

impl SystemdBox {
    pub(crate) fn up() -> Self {
        static BOOTED: AtomicU32 = AtomicU32::new(0);
        let number = BOOTED.fetch_add(1, Ordering::Relaxed);
        let this = Self {
            name: format!("p2pfs-{}-{number}", std::process::id()),
        };
        this.tool(&["up"]).expect_ok();
        this
    }

    fn tool(&self, arguments: &[&str]) -> Finished {
        run(Command::new(lab("systemd-box"))
            .args(["-n", &self.name])
            .args(arguments))
    }

    pub(crate) fn put(&self, from: &Path, to: &str) {
        self.tool(&["put", from.to_str().unwrap(), to]).expect_ok();
    }

    pub(crate) fn write(&self, to: &str, text: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, text).unwrap();
        set_mode(&file, 0o644);
        self.put(&file, to);
    }

    pub(crate) fn sh(&self, line: &str) -> Finished {
        self.tool(&["exec", "--", "sh", "-c", line])
    }

    pub(crate) fn sh_as(&self, user: &str, line: &str) -> Finished {
        self.tool(&["exec", "-u", user, "--", "sh", "-c", line])
    }

    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
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

/// Boots the service and a second node of the same cluster, which shares one large file.
pub(crate) fn boot_cluster() -> SystemdBox {
    let machine = SystemdBox::up();
    machine.put(Path::new(P2PFS), "/usr/bin/p2pfs");
    machine.put(
        &packaging("p2pfs.service"),
        "/etc/systemd/system/p2pfs.service",
    );
    machine.put(
        &packaging("user/p2pfs.service"),
        "/etc/systemd/user/p2pfs.service",
    );
    for unit in ["p2pfs-broker.service", "p2pfs-broker.socket"] {
        machine.put(&packaging(unit), &format!("/etc/systemd/system/{unit}"));
    }
    machine.put(&packaging("mount.p2pfs"), "/sbin/mount.p2pfs");
    let catalog = "/usr/lib/systemd/catalog/p2pfs.catalog";
    machine.put(&packaging("p2pfs.catalog"), catalog);
    machine.put(
        &packaging("sysusers.d/p2pfs.conf"),
        "/usr/lib/sysusers.d/p2pfs.conf",
    );
    machine.ok("systemd-sysusers && journalctl --update-catalog && systemctl daemon-reload");
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
         [[share]]\ndir = \"/srv/shared\"\n",
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
    eventually("the box settles", HANG_LIMIT, || {
        machine.sh("systemctl is-failed p2pfs").text().trim() == "inactive"
    });
}

pub(crate) const EXTRA: &str = "/etc/p2pfs/p2pfs.toml.d/z-extra.toml";

pub(crate) fn start(machine: &SystemdBox) {
    machine.ok("systemctl start p2pfs");
    machine.ok("p2pfs wait --mounted --peers 1 --file resume.pdf --timeout 30s");
}

pub(crate) fn property(machine: &SystemdBox, name: &str) -> String {
    let shown = machine.ok(&format!("systemctl show -p {name} --value p2pfs"));
    shown.trim().to_owned()
}

fn journal(machine: &SystemdBox) -> String {
    machine.ok("journalctl --sync; journalctl -q --no-pager -u p2pfs -o cat")
}

#[apply(promise)]
fn a_broken_configuration_is_refused_with_its_line_and_a_mended_one_starts() {
    let machine = boot_cluster();
    start(&machine);
    machine.write(EXTRA, "# one\nnonsense = 1\n");
    assert!(!machine.sh("systemctl reload p2pfs").status.success());
    assert_eq!(property(&machine, "ActiveState"), "active");
    let said = journal(&machine);
    assert!(said.contains("extra.toml:2:1"), "{said}");
    machine.ok("ls /mnt/p2p/resume.pdf");

    assert!(!machine.sh("systemctl restart p2pfs").status.success());
    assert_eq!(property(&machine, "ExecMainStatus"), "78");
    assert_eq!(property(&machine, "NRestarts"), "0");
    assert_eq!(property(&machine, "ActiveState"), "failed");
    machine.ok(&format!("rm {EXTRA}"));
    start(&machine);
    machine.ok("systemctl reload p2pfs");
    let many = "for i in $(seq 20); do systemctl restart p2pfs || exit 1; done";
    machine.ok(many);
    machine.ok("p2pfs wait --mounted --file resume.pdf --timeout 30s");
}

#[apply(promise)]
fn a_hung_daemon_is_replaced_by_the_watchdog() {
    let machine = boot_cluster();
    machine.write(
        "/etc/systemd/system/p2pfs.service.d/soon.conf",
        "[Service]\nWatchdogSec=3\n",
    );
    machine.ok("systemctl daemon-reload");
    start(&machine);
    let stopped = property(&machine, "MainPID");
    machine.ok(&format!("kill -STOP {stopped}"));
    eventually("another daemon serves", HANG_LIMIT, || {
        let now = property(&machine, "MainPID");
        now != stopped && now != "0" && property(&machine, "ActiveState") == "active"
    });
    machine.ok("p2pfs wait --mounted --file resume.pdf --timeout 30s && ls /mnt/p2p/resume.pdf");
    let said = machine.ok("journalctl -q --no-pager -u p2pfs -o cat _PID=1");
    assert!(said.contains("Watchdog timeout"), "{said}");
}

/// A name server that accepts each question and does not answer, for fifteen seconds.
const SILENT_NAME_SERVER: &str = "systemd-run --unit=silent perl -MIO::Socket::INET -e \
    'our @s = IO::Socket::INET->new(LocalAddr => \"127.0.0.9:53\", Proto => \"udp\") or die; \
     sleep 1000' && printf 'nameserver 127.0.0.9\\noptions timeout:15 attempts:1\\n' \
     > /etc/resolv.conf";

#[apply(promise)]
fn an_unresolvable_seed_delays_nothing() {
    let machine = boot_cluster();
    machine.sh(SILENT_NAME_SERVER).expect_ok();
    machine.write(
        EXTRA,
        "seeds = [\"one.example:1378\", \"two.example:1378\", \"127.0.0.1:1379\"]\n",
    );
    // This is less than one question to a silent server takes.
    machine.ok("timeout 12 systemctl start p2pfs");
    machine.ok("p2pfs wait --mounted --peers 1 --file resume.pdf --timeout 12s");
    eventually("both are named", HANG_LIMIT, || {
        let said = journal(&machine);
        said.contains("one.example:1378 does not resolve")
            && said.contains("two.example:1378 does not resolve")
    });
}

#[apply(promise)]
fn the_journal_has_searchable_fields_and_remedies() {
    let machine = boot_cluster();
    machine.write(EXTRA, "[log]\nlevel = \"debug\"\n");
    start(&machine);
    machine.ok("cat /mnt/p2p/resume.pdf > /dev/null");
    let said = journal(&machine);
    assert!(
        said.contains("only the daemon's own directories are written"),
        "{said}"
    );
    let fetched = "PATH=resume.pdf BYTES=20000000";
    let search = |fields: &str| {
        machine.ok("journalctl --sync");
        machine.ok(&format!("journalctl -q -u p2pfs -o json {fields}"))
    };
    eventually("the fetch is told", HANG_LIMIT, || {
        search(fetched).contains("DURATION_USEC")
    });
    eventually("the peer is named", HANG_LIMIT, || {
        let text = search("PEER_NAME=second");
        text.contains("second is alive") && text.contains("\"PEER\"")
    });
    machine.ok("systemctl stop second");
    machine.write(EXTRA, "listen = \"127.0.0.1:1399\"\n");
    machine.ok("systemctl reload p2pfs");
    let explained = "journalctl -q -x -u p2pfs -p warning --no-pager";
    eventually("the catalog explains", HANG_LIMIT, || {
        machine
            .ok(explained)
            .contains("Changed settings need a restart")
    });
}

#[apply(promise)]
fn mount_and_an_fstab_line_mount_the_folder() {
    let machine = boot_cluster();
    machine.ok("mount -t p2pfs none /mnt/p2p");
    machine.ok("p2pfs wait --file resume.pdf --timeout 30s && ls /mnt/p2p/resume.pdf");
    machine.ok("mount -t p2pfs none /mnt/p2p");
    machine.ok("umount /mnt/p2p");
    machine.ok("echo 'none /mnt/p2p p2pfs _netdev,nofail 0 0' >> /etc/fstab");
    machine.ok("systemctl daemon-reload && mount /mnt/p2p");
    machine.ok("p2pfs wait --file resume.pdf --timeout 30s && ls /mnt/p2p/resume.pdf");
    machine.ok("umount /mnt/p2p && mount -t p2pfs none /mnt/p2p -o umask=077,uid=1000");
    machine.ok("p2pfs wait --file resume.pdf --timeout 30s");
    let owned = machine.ok("stat -c '%a %u' /mnt/p2p/resume.pdf");
    assert_eq!(owned.trim(), "600 1000");
    machine.ok("mount -t p2pfs none /mnt/p2p -o umask=0077,uid=1000");
    let mount_with = |options: &str| {
        let refused = machine.sh(&format!("mount -t p2pfs none /mnt/p2p -o {options}"));
        assert!(!refused.status.success(), "{options}");
        refused.stderr
    };
    let other = mount_with("umask=022");
    assert!(other.contains("with umask 77: umount it first"), "{other}");
    let noexec = mount_with("noexec");
    assert!(noexec.contains("noexec is not possible"), "{noexec}");
    machine.ok("umount /mnt/p2p && mount /mnt/p2p");
    machine.ok("p2pfs wait --file resume.pdf --timeout 30s");
    let owned = machine.ok("stat -c '%a %u' /mnt/p2p/resume.pdf");
    assert_eq!(owned.trim(), "644 0", "as configured again");
    let refused = machine.sh("mount -t p2pfs none /mnt/p2p -o uid=me");
    assert!(refused.stderr.contains("uid=me is not a number"));
    let refused = machine.sh("mount -t p2pfs none /mnt/p2p -o colour=red");
    assert!(
        refused.stderr.contains("no option colour=red"),
        "{}",
        refused.stderr
    );
    let elsewhere = machine.sh("mount -t p2pfs none /mnt/elsewhere");
    assert!(
        elsewhere.stderr.contains("set dir of [mount]"),
        "{}",
        elsewhere.stderr
    );
    machine.ok("umount /mnt/p2p; systemctl stop p2pfs");
    let mask = mount_with("umask=9");
    assert!(mask.contains("\"9\" is not a mask"), "{mask}");
    // A refused mount does not affect the next start.
    machine.ok("systemctl start p2pfs && systemctl stop p2pfs");
    machine.write(EXTRA, "nonsense = 1\n");
    let broken = mount_with("ro,nosuid,nodev");
    let (place, mislead) = ("extra.toml:1:1", "mounts nothing");
    assert!(
        broken.contains(place) && !broken.contains(mislead),
        "{broken}"
    );
    assert!(!machine.sh("systemctl start p2pfs").status.success());
    machine.ok(&format!("rm {EXTRA}"));
    machine.ok("mount -t p2pfs none /mnt/p2p && umount /mnt/p2p");
    machine.ok("systemctl start mnt-p2p.mount");
    machine.ok("p2pfs wait --file resume.pdf --timeout 30s && ls /mnt/p2p/resume.pdf");
}

#[apply(promise)]
fn folder_unmounted_by_hand_is_mounted_again_by_the_command_that_status_names() {
    let machine = boot_cluster();
    start(&machine);
    let expect = |command: &str| {
        machine.ok("umount /mnt/p2p && systemctl start p2pfs");
        let named = format!("unmounted by hand; to mount it again: {command}\"");
        eventually("status names the command", HANG_LIMIT, || {
            machine.ok("p2pfs status --json").contains(&named)
        });
        let checkup = machine.sh("p2pfs doctor --json").text();
        let remedy = format!("\"to mount it again: {command}\"");
        assert!(checkup.contains(&remedy), "{checkup}");
        machine.ok(command);
        machine.ok("p2pfs wait --mounted --file resume.pdf --timeout 30s");
        machine.ok("ls /mnt/p2p/resume.pdf");
    };
    expect("mount -t p2pfs none /mnt/p2p");
    machine.ok("echo 'none /mnt/p2p p2pfs _netdev,nofail 0 0' >> /etc/fstab");
    machine.ok("systemctl daemon-reload");
    expect("mount /mnt/p2p");
}

mod automount {
    use super::*;

    const NEEDS: &[Need] = &[root, booted_systemd, mount, autofs];

    /// Returns why systemd cannot make an automount point.
    fn autofs() -> Option<String> {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let is_known = known.lines().any(|line| line.ends_with("\tautofs"));
        (!is_known).then(|| "the kernel has no autofs".to_owned())
    }

    #[apply(promise)]
    fn an_access_to_an_automount_point_starts_the_daemon_and_shows_the_folder() {
        let machine = boot_cluster();
        machine.ok(
            "echo 'none /mnt/p2p p2pfs _netdev,nofail,x-systemd.automount 0 0' >> /etc/fstab && \
             systemctl daemon-reload && systemctl start mnt-p2p.automount",
        );
        for _ in 0..2 {
            assert_eq!(property(&machine, "ActiveState"), "inactive");
            machine.ok("timeout 60 ls /mnt/p2p");
            assert_eq!(property(&machine, "ActiveState"), "active");
            machine.ok("p2pfs wait --mounted --file resume.pdf --timeout 30s");
            machine
                .sh_as("nobody", "cat /mnt/p2p/resume.pdf > /dev/null")
                .expect_ok();
            let mounts = machine.ok("grep -c ' /mnt/p2p .* fuse.p2pfs ' /proc/self/mountinfo");
            assert_eq!(mounts.trim(), "1");
            machine.ok("! test -e /run/p2pfs-automount");
            machine.ok("systemctl restart p2pfs && ls /mnt/p2p/resume.pdf");
            let loud = machine.ok("journalctl -q -u p2pfs -p warning..emerg -o cat || true");
            assert_eq!(loud, "", "the journal has warnings");
            machine.ok("systemctl stop p2pfs");
            eventually("the automount point waits again", HANG_LIMIT, || {
                machine
                    .sh("systemctl is-active mnt-p2p.mount")
                    .text()
                    .trim()
                    == "inactive"
            });
        }
    }
}

#[apply(promise)]
fn systemd_accepts_the_units() {
    let machine = boot_cluster();
    for units in [
        "/etc/systemd/system/p2pfs.service",
        "/etc/systemd/system/p2pfs-broker.service",
        "/etc/systemd/system/p2pfs-broker.socket",
        "--user /etc/systemd/user/p2pfs.service",
    ] {
        let verified = machine.sh(&format!(
            "XDG_RUNTIME_DIR=/run systemd-analyze verify --man=no {units} 2>&1"
        ));
        assert_eq!(verified.text(), "", "{units}");
    }
}

/// Returns the exposure of a unit according to `systemd-analyze security`.
fn exposure(machine: &SystemdBox, unit: &str) -> f32 {
    let judged = machine.ok(&format!("systemd-analyze security --no-pager {unit}"));
    let line = judged.lines().last().unwrap();
    let figure = line.split_once(": ").unwrap().1.split(' ').next().unwrap();
    figure.parse().unwrap()
}

#[apply(promise)]
fn the_daemon_has_no_privilege_and_the_broker_one() {
    let machine = boot_cluster();
    start(&machine);
    assert!(exposure(&machine, "p2pfs.service") <= 1.5);
    assert!(exposure(&machine, "p2pfs-broker.service") <= 4.0);
    let of = |unit: &str, field: &str| {
        let pid = machine.ok(&format!("systemctl show -p MainPID --value {unit}"));
        let line = format!("grep -w {field} /proc/{}/status | cut -f2", pid.trim());
        machine.ok(&line).trim().to_owned()
    };
    for set in ["CapEff", "CapPrm", "CapBnd", "CapAmb"] {
        assert_eq!(of("p2pfs", set), "0000000000000000", "{set}");
    }
    assert_ne!(of("p2pfs", "Uid"), "0");
    let sys_admin = format!("{:016x}", 1u64 << 21);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(of("p2pfs-broker", set), sys_admin, "{set}");
    }
    assert_eq!(of("p2pfs-broker", "Seccomp"), "2");
    let status = machine.ok("p2pfs status");
    assert!(
        !status.contains("warning"),
        "the kernel reads whole files itself: {status}"
    );
    machine.ok("p2pfs wait --file mine.txt --timeout 30s");
    machine.ok("cp /mnt/p2p/mine.txt /root/ && cmp /root/mine.txt /srv/shared/mine.txt");
}
