//! Nodes on separate links, in network namespaces, for behaviour that loopback cannot show.
//! `tests/lab/netlab` makes the hosts.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::lab::{Lab, hosts};
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

pub(super) const NEEDS: &[Need] = &[root, hosts, mount];

pub(crate) fn start_node(lab: &Lab, host: &str, folder: &Path, more: &[&str]) -> Running {
    prepare_node(host, folder);
    let home = folder.join(host);
    let mut command = daemon(lab, host, &home);
    command.arg("--share").arg(home.join("share"));
    start(command.args(more))
}

/// Prepares a node's folder with one file to share.
pub(super) fn prepare_node(host: &str, folder: &Path) {
    let home = folder.join(host);
    fs::create_dir_all(home.join("share")).unwrap();
    set_mode(&home, 0o755);
    set_mode(&home.join("share"), 0o755);
    fs::write(home.join(format!("share/{host}.txt")), host).unwrap();
    fs::write(home.join("p2pfs.toml"), "").unwrap();
    fs::write(home.join("secret"), format!("{}\n", "c3".repeat(32))).unwrap();
    set_mode(&home.join("secret"), 0o600);
}

/// Returns the command of its daemon, which shares nothing yet.
pub(super) fn daemon(lab: &Lab, host: &str, home: &Path) -> Command {
    daemon_on(lab, host, host, home)
}

/// Returns the command of a daemon with any name on a host.
pub(super) fn daemon_on(lab: &Lab, host: &str, name: &str, home: &Path) -> Command {
    let mut command = founding_daemon_on(lab, host, name, home);
    command.arg("--secret-file").arg(home.join("secret"));
    command
}

/// Returns the command of a daemon that founds its own cluster.
fn founding_daemon_on(lab: &Lab, host: &str, name: &str, home: &Path) -> Command {
    let mut command = lab.on(host);
    command.arg(P2PFS).args(["daemon", "--name", name]);
    for (flag, name) in [
        ("--config", "p2pfs.toml"),
        ("--state", "state"),
        ("--cache", "cache"),
        ("--socket", "sock"),
        ("--mount", "mnt"),
    ] {
        command.arg(flag).arg(home.join(name));
    }
    command
}

#[apply(promise)]
fn nodes_with_one_secret_find_each_other_on_the_lan_without_a_seed() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    let nodes = ["n1", "n2"].map(|host| start_node(&lab, host, folder.path(), &[]));
    expect_that_both_read(&lab, folder.path());
    stop(nodes);
}

#[apply(promise)]
fn nodes_without_a_default_route_and_without_ipv6_find_each_other_on_the_lan() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    for host in ["n1", "n2"] {
        run(lab.on(host).args(["ip", "route", "delete", "default"])).expect_ok();
        let off = "net.ipv6.conf.all.disable_ipv6=1";
        run(lab.on(host).args(["sysctl", "-qw", off])).expect_ok();
    }
    let nodes = ["n1", "n2"].map(|host| start_node(&lab, host, folder.path(), &[]));
    expect_that_both_read(&lab, folder.path());
    stop(nodes);
}

#[apply(promise)]
fn doctor_reports_a_node_of_another_cluster_on_the_lan() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("3", &[]);
    let start_with_secret = |(host, secret): (&str, &str)| {
        prepare_node(host, folder.path());
        let home = folder.path().join(host);
        fs::write(home.join("secret"), format!("{}\n", secret.repeat(32))).unwrap();
        start(&mut daemon(&lab, host, &home))
    };
    let nodes = [("n1", "a1"), ("n2", "b2"), ("n3", "b2")].map(start_with_secret);
    let nearby_of = |host: &str| {
        let mut doctor = Command::new(P2PFS);
        doctor.args(["doctor", "--socket"]);
        let found = run(doctor.arg(folder.path().join(host).join("sock"))).text();
        let near = ["10.77.0.1:1378", "10.77.0.2:1378", "10.77.0.3:1378"];
        near.map(|at| found.contains(&format!("nearby {at}")))
    };
    eventually("n1 reports both others", HANG_LIMIT, || {
        nearby_of("n1") == [false, true, true]
    });
    eventually("n2 reports n1 and no member", HANG_LIMIT, || {
        nearby_of("n2") == [true, false, false]
    });
    stop(nodes);
}

pub(super) fn wait_until_mounted(host: &str, folder: &Path) {
    let mut wait = Command::new(P2PFS);
    wait.args(["wait", "--mounted", "--timeout", WAIT_LIMIT, "--socket"]);
    run(wait.arg(folder.join(host).join("sock"))).expect_ok();
}

/// Asserts that each of two hosts finds the other and reads its file.
pub(super) fn expect_that_both_read(lab: &Lab, folder: &Path) {
    for (host, other) in [("n1", "n2.txt"), ("n2", "n1.txt")] {
        let home = folder.join(host);
        let mut wait = Command::new(P2PFS);
        wait.args(["wait", "--mounted", "--peers", "1", "--file", other]);
        wait.args(["--timeout", WAIT_LIMIT, "--socket"]);
        run(wait.arg(home.join("sock"))).expect_ok();
        let seen = run(lab.on(host).arg("cat").arg(home.join("mnt").join(other))).expect_ok();
        assert_eq!(format!("{seen}.txt"), other);
    }
}

#[apply(promise)]
fn a_daemon_started_before_its_network_is_found_and_read_later() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    let network = |arguments: &[&str]| {
        run(lab.on("n1").arg("ip").args(arguments)).expect_ok();
    };
    network(&["link", "set", "eth0", "down"]);
    network(&["address", "flush", "dev", "eth0"]);
    let early = start_node(&lab, "n1", folder.path(), &[]);
    wait_until_mounted("n1", folder.path());
    network(&["link", "set", "eth0", "up"]);
    network(&["address", "add", "10.77.0.1/24", "dev", "eth0"]);
    let late = start_node(&lab, "n2", folder.path(), &[]);
    expect_that_both_read(&lab, folder.path());
    stop([early, late]);
}

/// Duration of the flood in the test below, unless `P2PFS_FLOOD_S` is set.
const FLOOD: Duration = Duration::from_secs(30);
/// Rate of the flood in MiB/s.
const FLOOD_MIB_PER_S: u32 = 5;
/// Maximum growth of a flooded node's memory, in KiB.
const FLOOD_GROWTH_MAX_KIB: u64 = 64 << 10;

#[apply(promise)]
#[takes("python3")]
fn a_flood_of_mdns_responses_takes_no_memory_and_hides_no_node() {
    let seconds = std::env::var("P2PFS_FLOOD_S").map(|it| it.parse().expect("seconds"));
    let length = seconds.map_or(FLOOD, Duration::from_secs);
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("3", &[]);
    let flooded = start_node(&lab, "n1", folder.path(), &[]);
    wait_until_mounted("n1", folder.path());
    let idle = resident_kib(flooded.pid());

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/mdns-flood");
    let (seconds, rate) = (length.as_secs().to_string(), FLOOD_MIB_PER_S.to_string());
    let mut flood = lab.on("n3");
    flood
        .arg(script)
        .args([&*seconds, &*rate, "10.77.0.1", "eth0"]);
    let flood = start(&mut flood);
    let found = start_node(&lab, "n2", folder.path(), &[]);
    expect_that_both_read(&lab, folder.path());
    let sent = flood.end_within(2 * length).0;
    let sent: u64 = sent.expect_ok().trim().parse().unwrap();
    assert!(
        sent >= length.as_secs() * u64::from(FLOOD_MIB_PER_S) / 2,
        "{sent} MiB"
    );
    let grown = resident_kib(flooded.pid()).saturating_sub(idle);
    println!("{sent} MiB sent, {idle} KiB idle, {grown} KiB more afterwards");
    assert!(
        grown < FLOOD_GROWTH_MAX_KIB,
        "{grown} KiB more after {sent} MiB"
    );
    stop([flooded, found]);
}

/// This is like a firewall that passes UDP and drops TCP.
#[apply(promise)]
fn a_live_node_that_answers_no_file_requests_is_named() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    let nodes = ["n1", "n2"].map(|host| start_node(&lab, host, folder.path(), &[]));
    let home = folder.path().join("n1");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(P2PFS);
        command
            .arg(arguments[0])
            .arg("--socket")
            .arg(home.join("sock"));
        run(command.args(&arguments[1..]))
    };
    let wait = [
        "wait",
        "--mounted",
        "--file",
        "n2.txt",
        "--timeout",
        WAIT_LIMIT,
    ];
    command(&wait).expect_ok();
    assert!(!command(&["peers"]).expect_ok().contains("mute"));
    let rule = ["rule", "add", "ipproto", "tcp", "blackhole"];
    run(lab.on("n1").arg("ip").args(rule)).expect_ok();
    let read = run(lab.on("n1").arg("cat").arg(home.join("mnt/n2.txt")));
    assert!(!read.status.success());
    let told = command(&["peers"]).expect_ok();
    assert!(
        told.contains("alive") && told.contains("mute n2: alive, but"),
        "{told}"
    );
    let why = command(&["why", "n2.txt"]).expect_ok();
    assert!(why.contains("without an answer"), "{why}");
    stop(nodes);
}

/// This is like a firewall that begins to drop UDP and passes TCP.
#[apply(promise)]
fn a_farewell_whose_datagrams_are_lost_is_received_over_a_connection() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    let home = |host: &str| folder.path().join(host);
    let [stays, leaves] = ["n1", "n2"].map(|host| {
        prepare_node(host, folder.path());
        let node = start(&mut founding_daemon_on(&lab, host, host, &home(host)));
        wait_until_mounted(host, folder.path());
        node
    });
    let ask = |host: &str, arguments: &[&str]| {
        let mut command = Command::new(P2PFS);
        command.args(arguments).arg("--socket");
        run(command.arg(home(host).join("sock")))
    };
    let token = ask("n1", &["invite"]).expect_ok();
    ask("n2", &["join", token.trim()]).expect_ok();
    ask("n2", &["wait", "--peers", "1", "--timeout", WAIT_LIMIT]).expect_ok();
    let members = || ask("n1", &["trust"]).expect_ok().matches("since").count();
    assert_eq!(members(), 2);
    let rule = ["rule", "add", "ipproto", "udp", "blackhole"];
    run(lab.on("n2").arg("ip").args(rule)).expect_ok();
    let left = ask("n2", &["leave", "--yes"]);
    assert!(!left.stderr.contains("No other node"), "{}", left.stderr);
    left.expect_ok();
    assert_eq!(members(), 1);
    stop([stays, leaves]);
}

pub(crate) fn stop(nodes: impl IntoIterator<Item = Running>) {
    for node in nodes {
        node.signal(libc::SIGTERM);
        node.end_within(Duration::from_secs(20));
    }
}
