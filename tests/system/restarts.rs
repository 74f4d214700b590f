//! Restarts that nobody notices: while the daemon is away its readers wait, and go on with the
//! right bytes.

use macro_rules_attribute::apply;

use super::service::{SystemdBox, boot_cluster, booted_systemd, property, start};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];

/// Readers of several kinds at once, each of which writes what it read to a file of its own.
const READERS: &str = "
    sha256sum < /mnt/p2p/large > /tmp/whole &
    dd if=/mnt/p2p/large iflag=direct bs=1M status=none | sha256sum > /tmp/direct &
    tar -C /mnt/p2p -cf - tree | sha256sum > /tmp/tar &
    cp /mnt/p2p/own /tmp/own-copy &
    tail -c +1 /mnt/p2p/resume.pdf | sha256sum > /tmp/small &";

/// Makes what they read, and writes down what they should find.
fn prepare(machine: &SystemdBox) {
    machine.ok(
        "cd /root/second/share && head -c 150000000 /dev/urandom > large && mkdir tree && \
         for i in $(seq 200); do head -c 20000 /dev/urandom > tree/$i; done && \
         chmod -R a+rX . && head -c 100000000 /dev/urandom > /srv/shared/own && \
         chmod a+r /srv/shared/own",
    );
    machine.ok("p2pfs wait --file tree/200 --timeout 60s && p2pfs wait --file large");
    machine.ok("p2pfs wait --file own --timeout 60s && p2pfs wait --file tree/1");
    machine.ok(
        "cd /root/second/share && sha256sum < large > /tmp/large-want && \
         sha256sum < resume.pdf > /tmp/small-want",
    );
    machine.ok("tar -C /mnt/p2p -cf - tree | sha256sum > /tmp/tar-want");
}

fn interrupt_readers(machine: &SystemdBox, how: &str) {
    machine.ok("p2pfs cache clear");
    let line = format!(
        "{READERS}
         sleep 0.2; {how} && ls /mnt/p2p | grep -q resume.pdf && \
         cp /mnt/p2p/resume.pdf /tmp/copy && wait && \
         cmp /tmp/copy /root/second/share/resume.pdf && cmp /tmp/own-copy /srv/shared/own && \
         cmp /tmp/whole /tmp/large-want && cmp /tmp/direct /tmp/large-want && \
         cmp /tmp/tar /tmp/tar-want && cmp /tmp/small /tmp/small-want"
    );
    machine.ok(&line);
}

#[apply(promise)]
fn who_reads_while_the_daemon_restarts_waits_and_reads_the_right_bytes() {
    let machine = boot_cluster();
    start(&machine);
    prepare(&machine);
    for _ in 0..10 {
        interrupt_readers(&machine, "systemctl restart p2pfs");
    }
    let mounts = machine.ok("grep -c ' /mnt/p2p ' /proc/self/mountinfo");
    assert_eq!(mounts.trim(), "1");
}

#[apply(promise)]
fn who_reads_while_the_daemon_is_killed_waits_and_reads_the_right_bytes() {
    let machine = boot_cluster();
    start(&machine);
    prepare(&machine);
    for _ in 0..10 {
        let pid = property(&machine, "MainPID");
        interrupt_readers(&machine, &format!("kill -9 {pid}"));
    }
}
