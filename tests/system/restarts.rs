//! Restarts without visible effects. While the daemon is away, its readers wait and then continue
//! with the right bytes. New connections wait and are not refused.

use std::path::Path;

use macro_rules_attribute::apply;

use super::service::{EXTRA, SystemdBox, boot_cluster, booted_systemd, property, start};
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];

/// Default number of interruptions in each test. `P2PFS_RESTARTS` changes it.
const ROUNDS: usize = 3;

fn rounds() -> usize {
    let asked = std::env::var("P2PFS_RESTARTS").ok();
    asked.map_or(ROUNDS, |text| {
        text.parse().expect("P2PFS_RESTARTS is a number")
    })
}

/// Concurrent readers: the name of each output in `/tmp/got`, its command, and the expected
/// content. Those run by `reader.py` pause after a third, so that their next read happens while the
/// daemon is away.
const READERS: &[(&str, &str, &str)] = &[
    ("cp", "cp /mnt/p2p/large /tmp/got/cp", "large"),
    ("tar", "tar -C /mnt/p2p -cf /tmp/got/tar tree", "tree.tar"),
    ("small", "cat /mnt/p2p/tree/* > /tmp/got/small", "tree.cat"),
    (
        "elsewhere",
        "unshare --mount --pid --fork --propagation private \
        cat /mnt/p2p/large > /tmp/got/elsewhere",
        "large",
    ),
    (
        "user",
        "setpriv --reuid 65534 --regid 65534 --clear-groups \
        sha256sum < /mnt/p2p/large > /tmp/got/user",
        "large.sum",
    ),
    ("buffered", "reader buffered large", "large.sum"),
    ("direct", "reader direct large", "large.sum"),
    ("mapped", "reader mapped large", "large.sum"),
    ("listing", "reader listing many", "many.sum"),
    ("passthrough", "reader buffered own", "own.sum"),
    ("cached", "reader buffered cached", "cached.sum"),
];

/// Creates the files to read, and records the expected content.
fn prepare(machine: &SystemdBox) {
    machine.put(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/reader.py"),
        "/root/reader.py",
    );
    machine.ok(
        "cd /root/second/share && head -c 100000000 /dev/urandom > large && mkdir tree many && \
         head -c 30000000 /dev/urandom > cached && \
         for i in $(seq 200); do head -c 20000 /dev/urandom > tree/$i; done && \
         for i in $(seq 3000); do : > many/a-name-of-some-length-$i; done && \
         chmod -R a+rX . && head -c 50000000 /dev/urandom > /srv/shared/own && \
         chmod a+r /srv/shared/own",
    );
    machine.ok(
        "for file in large own cached tree/1 tree/200 many/a-name-of-some-length-3000; \
                do p2pfs wait --file $file --timeout 60s || exit 1; done",
    );
    machine.ok(
        "mkdir /tmp/want && cd /root/second/share && cp large /tmp/want && \
         cat tree/* > /tmp/want/tree.cat && sha256sum < large > /tmp/want/large.sum && \
         sha256sum < cached > /tmp/want/cached.sum && \
         sha256sum < /srv/shared/own > /tmp/want/own.sum && \
         ls many | LC_ALL=C sort | sha256sum > /tmp/want/many.sum && \
         tar -C /mnt/p2p -cf /tmp/want/tree.tar tree",
    );
}

/// Starts every reader, interrupts once all have begun, and compares the results.
fn interrupt_readers(machine: &SystemdBox, how: &str) {
    machine.ok("p2pfs cache clear && cat /mnt/p2p/cached > /dev/null");
    let (mut begin, mut begun, mut compare) = (String::new(), String::new(), String::new());
    for (name, command, want) in READERS {
        let under_way = match command.strip_prefix("reader ") {
            Some(how) => {
                let (way, file) = how.split_once(' ').unwrap();
                let script = format!("{way} /mnt/p2p/{file} /tmp/got/{name} /tmp/got/go");
                begin += &format!("python3 /root/reader.py {script} & pids=\"$pids $!\"\n");
                format!("test -e /tmp/got/{name}.begun")
            }
            None => {
                begin += &format!("{command} & pids=\"$pids $!\"\n");
                format!("test -e /tmp/got/{name}")
            }
        };
        begun += &format!("until {under_way}; do sleep 0.02; done\n");
        compare += &format!("cmp /tmp/got/{name} /tmp/want/{want} || bad=\"$bad {name}\"\n");
    }
    machine.ok(&format!(
        "rm -rf /tmp/got; mkdir -m 777 /tmp/got; pids=; bad=\n{begin}{begun}
         {how} &
         touch /tmp/got/go
         wait $! || bad=\"$bad interruption\"
         ls /mnt/p2p | grep -q resume.pdf || bad=\"$bad ls\"
         cp /mnt/p2p/resume.pdf /tmp/got/resume.pdf || bad=\"$bad resume\"
         for pid in $pids; do wait $pid || bad=\"$bad failed\"; done
         {compare}
         cmp /tmp/got/resume.pdf /root/second/share/resume.pdf || bad=\"$bad resume\"
         test -z \"$bad\" || {{ echo \"wrong:$bad\" >&2; exit 1; }}"
    ));
}

#[apply(promise)]
#[takes("python3", "setpriv", "unshare")]
fn a_read_during_a_restart_of_the_daemon_waits_and_gets_the_right_bytes() {
    let machine = boot_cluster();
    start(&machine);
    prepare(&machine);
    for _ in 0..rounds() {
        interrupt_readers(&machine, "systemctl restart p2pfs");
    }
    let mounts = machine.ok("grep -c ' /mnt/p2p ' /proc/self/mountinfo");
    assert_eq!(mounts.trim(), "1");
}

#[apply(promise)]
#[takes("python3", "setpriv", "unshare")]
fn a_read_during_a_kill_of_the_daemon_waits_and_gets_the_right_bytes() {
    let machine = boot_cluster();
    start(&machine);
    prepare(&machine);
    for _ in 0..rounds() {
        let pid = property(&machine, "MainPID");
        interrupt_readers(&machine, &format!("kill -9 {pid}"));
    }
}

#[apply(promise)]
#[takes("python3", "setpriv", "unshare")]
fn a_read_during_a_hang_of_the_daemon_waits_for_the_watchdog_and_gets_the_right_bytes() {
    let machine = boot_cluster();
    let soon = "[Service]\nWatchdogSec=4\n";
    machine.write("/etc/systemd/system/p2pfs.service.d/soon.conf", soon);
    machine.ok("systemctl daemon-reload");
    start(&machine);
    prepare(&machine);
    let pid = property(&machine, "MainPID");
    interrupt_readers(&machine, &format!("kill -STOP {pid}"));
    assert_ne!(property(&machine, "MainPID"), pid);
    let said = machine.ok("journalctl -q --no-pager -u p2pfs -o cat _PID=1");
    assert!(said.contains("Watchdog timeout"), "{said}");
}

/// Connects to both ports repeatedly until it is told to stop, and counts the outcomes.
const KNOCKER: &str = "systemd-run --unit=knocker perl -MIO::Socket::INET -MErrno -e \
    'until (-e \"/tmp/enough\") { for my $port (1378, 1380) { \
       my $s = IO::Socket::INET->new(PeerAddr => \"127.0.0.1:$port\", Timeout => 60); \
       $s ? $in++ : $!{ECONNREFUSED} ? $refused++ : $other++; close $s if $s; } \
     select undef, undef, undef, 0.02 } \
     open my $out, \">\", \"/tmp/knocked.new\"; \
     printf $out \"%d %d %d\", $in, $refused, $other; close $out; \
     rename \"/tmp/knocked.new\", \"/tmp/knocked\"'";

/// Calls the control socket repeatedly until it is told to stop, and records failures.
const CALLER: &str = "systemd-run --unit=caller sh -c \
    'until test -e /tmp/enough; do \
       for what in status peers \"ls -l\" \"top --once\" \"why mine.txt\" \"pin mine.txt\" \
           \"get mine.txt -o /tmp/called.txt\" \"wait --mounted\"; do \
         p2pfs $what > /tmp/said 2>&1 || { echo \"$what\"; cat /tmp/said; } >> /tmp/failed; \
       done; \
       cmp /tmp/called.txt /srv/shared/mine.txt >> /tmp/failed 2>&1; \
     done; mv /tmp/said /tmp/called'";

#[apply(promise)]
#[takes("perl")]
fn a_connection_during_a_restart_or_kill_is_not_refused() {
    let machine = boot_cluster();
    machine.write(EXTRA, "[mesh]\nlisten = \"127.0.0.1:1380\"\n");
    start(&machine);
    assert_eq!(property(&machine, "NFileDescriptorStore"), "4");
    machine.ok("p2pfs wait --file mine.txt --timeout 60s");
    machine.ok(KNOCKER);
    machine.ok(CALLER);
    for _ in 0..rounds() {
        machine.ok("systemctl restart p2pfs && p2pfs wait --mounted --timeout 30s");
        let pid = property(&machine, "MainPID");
        machine.ok(&format!("kill -9 {pid}"));
        eventually("the next daemon serves", HANG_LIMIT, || {
            property(&machine, "MainPID") != pid && property(&machine, "ActiveState") == "active"
        });
    }
    machine.ok("p2pfs wait --mounted --peers 1 --file resume.pdf --timeout 60s");
    machine.ok("touch /tmp/enough");
    eventually("it stops", HANG_LIMIT, || {
        machine
            .sh("test -e /tmp/knocked && test -e /tmp/called")
            .status
            .success()
    });
    let failed = machine.ok("cat /tmp/failed 2> /dev/null || true");
    let journal = || machine.ok("journalctl -q --no-pager -u p2pfs -o short-precise");
    assert!(
        failed.is_empty(),
        "commands failed: {failed}\n{}",
        journal()
    );
    let counted = machine.ok("cat /tmp/knocked");
    let counts: Vec<usize> = counted.split(' ').map(|it| it.parse().unwrap()).collect();
    assert!(counts[0] > rounds() * 10, "few connections: {counted}");
    assert_eq!(
        counts[1..],
        [0, 0],
        "refused, or failed otherwise: {counted}"
    );

    // A command in progress continues with the next daemon.
    machine.ok("p2pfs cache clear && p2pfs limits --down 1MiB/s && \
         { p2pfs get resume.pdf -o /tmp/gotten & } && \
         until p2pfs top --once --json | grep -q resume.pdf; do sleep 0.05; done && \
         systemctl restart p2pfs && wait && cmp /tmp/gotten /root/second/share/resume.pdf");

    // A kept socket does not prevent a change of the address.
    machine.write(EXTRA, "listen = \"0.0.0.0:1378\"\n");
    machine.ok("systemctl restart p2pfs && p2pfs wait --mounted --peers 1 --timeout 30s");
    assert_eq!(property(&machine, "NFileDescriptorStore"), "3");
    let listening = machine.ok("p2pfs status --json");
    assert!(listening.contains(":1378"), "{listening}");
    machine.ok("systemctl stop p2pfs");
    assert_eq!(property(&machine, "NFileDescriptorStore"), "0");
}

#[apply(promise)]
fn after_a_restart_of_the_brokers_service_the_daemon_mounts_anew() {
    let machine = boot_cluster();
    start(&machine);
    let pid = property(&machine, "MainPID");
    let mounted = |times: usize| {
        eventually("it is mounted anew", HANG_LIMIT, || {
            let said = machine.ok("journalctl -q --no-pager -u p2pfs -o cat");
            said.matches("mounted at /mnt/p2p").count() == times
        });
        machine.ok("cmp /mnt/p2p/resume.pdf /root/second/share/resume.pdf");
        let mounts = machine.ok("grep -c ' /mnt/p2p ' /proc/self/mountinfo");
        assert_eq!(mounts.trim(), "1");
    };
    machine.ok("systemctl restart p2pfs-broker");
    mounted(2);
    // The broker's socket starts it again.
    machine.ok("systemctl stop p2pfs-broker");
    mounted(3);
    let said = machine.ok("journalctl -q --no-pager -u p2pfs -o cat");
    assert!(
        said.contains("the folder is gone: its mount broker ended"),
        "{said}"
    );
    assert!(!said.contains("by hand"), "{said}");

    machine.ok("umount /mnt/p2p");
    eventually("it is said", HANG_LIMIT, || {
        machine.ok("p2pfs status").contains("by hand")
    });
    let said = machine.sh("p2pfs doctor").text();
    assert!(
        said.contains("unmounted by hand") && !said.contains("/dev/fuse"),
        "{said}"
    );
    machine.ok("systemctl restart p2pfs-broker && p2pfs status | grep 'by hand'");
    assert_eq!(property(&machine, "MainPID"), pid, "the daemon went on");
}

#[apply(promise)]
fn a_restart_moves_the_folder_to_its_configured_place() {
    let machine = boot_cluster();
    start(&machine);
    machine.ok("mkdir /mnt/other");
    machine.write(EXTRA, "[mount]\ndir = \"/mnt/other\"\n");
    // For 3 s after its start, a broker takes its configuration for current and does not restart.
    machine.ok(
        "since=$(systemctl show -p ActiveEnterTimestampMonotonic --value p2pfs-broker); \
         while test $(($(cut -d. -f1 /proc/uptime) - since / 1000000)) -lt 5; do sleep 0.2; done",
    );
    machine.ok("systemctl restart p2pfs");
    machine.ok("p2pfs wait --mounted --file resume.pdf --timeout 60s");
    machine.ok("ls /mnt/other/resume.pdf && ! grep -q ' /mnt/p2p ' /proc/self/mountinfo");
    assert_eq!(property(&machine, "NRestarts"), "0");

    // An environment variable does not change the folder for the broker.
    machine.ok("mkdir -p /etc/systemd/system/p2pfs.service.d && \
         printf '[Service]\\nEnvironment=P2PFS_MOUNT_DIR=/mnt/p2p\\n' \
         > /etc/systemd/system/p2pfs.service.d/place.conf && systemctl daemon-reload");
    assert!(!machine.sh("systemctl restart p2pfs").status.success());
    eventually("it is said why", HANG_LIMIT, || {
        machine
            .ok("journalctl -q --no-pager -u p2pfs -o cat")
            .contains("at /mnt/other only, as dir of [mount] in the configuration file")
    });
    machine.ok("rm -r /etc/systemd/system/p2pfs.service.d && systemctl daemon-reload");
    machine.ok("systemctl restart p2pfs && p2pfs wait --mounted --timeout 60s");
    machine.ok("ls /mnt/other/resume.pdf");
}
