//! Nodes that peers reach at another address than the advertised one, in network namespaces: behind
//! a NAT, with several network cards, beside a VPN, after a change of network.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use super::lan::{NEEDS, daemon_on, prepare_node, start_node, stop};
use crate::support::daemon::*;
use crate::support::lab::Lab;
use crate::support::process::*;
use crate::support::promise::promise;

const SEED: &[&str] = &["--seed", "10.77.0.1:1378"];
/// Time between two checks of the members. Each check starts programs.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// Number of hosts that ask a node by mDNS. If the kernel chose a socket of the node by a hash of
/// each sender, 1 test in 256 would see the right choice for all of them.
const ASKING_HOSTS: u32 = 8;
/// Maximum time for which a router that forgets its mappings separates nodes.
const FORGOTTEN_MAX: Duration = Duration::from_secs(30);

/// The nodes in a folder, for control commands on their hosts.
struct Nodes<'a>(&'a Path);

impl Nodes<'_> {
    fn command(&self, host: &str, arguments: &[&str]) -> Finished {
        let mut command = Command::new(P2PFS);
        command.arg(arguments[0]).arg("--socket");
        command.arg(self.0.join(host).join("sock"));
        run(command.args(&arguments[1..]))
    }

    fn wait_for_file(&self, host: &str, file: &str) {
        let wait = ["wait", "--mounted", "--file", file, "--timeout", WAIT_LIMIT];
        self.command(host, &wait).expect_ok();
    }

    /// Waits until a node lists a file, and expects this content there.
    fn expect_read(&self, lab: &Lab, host: &str, file: &str, content: &str) {
        let begun = Instant::now();
        self.wait_for_file(host, file);
        let listed = begun.elapsed();
        let path = self.0.join(host).join("mnt").join(file);
        let seen = run(lab.on(host).arg("cat").arg(path)).expect_ok();
        assert_eq!(seen, content, "{file} on {host}");
        println!(
            "{host} lists {file} after {listed:?}, and has it after {:?}",
            begun.elapsed()
        );
    }

    /// Returns the names of the living peers that a node lists.
    fn living(&self, host: &str) -> Vec<String> {
        let peers = self.command(host, &["peers"]).text();
        let alive = peers.lines().filter(|row| row.contains(" alive "));
        let names = alive.filter_map(|row| row.split(' ').next().map(str::to_owned));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

/// Asserts this with a public node, another one, and a third behind a NAT that has the first as its
/// seed.
fn expect_that_a_node_joins_reads_and_is_read_behind(nat: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("3", &[]);
    lab.add_nat("n3", nat);
    let nodes = [("n1", &[] as &[_]), ("n2", SEED), ("n3", SEED)];
    let running = nodes.map(|(host, more)| start_node(&lab, host, folder.path(), more));
    let all = Nodes(folder.path());
    for (reader, holder) in [("n3", "n1"), ("n3", "n2"), ("n1", "n3"), ("n2", "n3")] {
        all.expect_read(&lab, reader, &format!("{holder}.txt"), holder);
    }
    let others = [["n2", "n3"], ["n1", "n3"], ["n1", "n2"]];
    let are_together = || {
        let mut each = nodes.iter().zip(&others);
        each.all(|((host, _), others)| all.living(host) == *others)
    };
    let shared = folder.path().join("n3/share");
    for reader in ["n1", "n2"] {
        let file = format!("for-{reader}.txt");
        fs::write(shared.join(&file), reader).unwrap();
        all.expect_read(&lab, reader, &file, reader);
    }
    eventually("the node is a member everywhere", HANG_LIMIT, are_together);
    eventually("status names the NAT", HANG_LIMIT, || {
        let status = all.command("n3", &["status"]).text();
        let status = status.split_whitespace().collect::<Vec<_>>().join(" ");
        status.contains("only nodes that this node can dial read its files")
            && !status.contains("firewall")
    });
    lab.forget_mappings("n3");
    let forgot = Instant::now();
    let mut apart = Duration::ZERO;
    while forgot.elapsed() < FORGOTTEN_MAX {
        if !are_together() {
            apart = forgot.elapsed();
        }
        sleep(LOOK_PERIOD);
    }
    println!("apart until {apart:?} after the router has forgotten");
    assert!(are_together());
    fs::write(shared.join("late.txt"), "late").unwrap();
    for reader in ["n1", "n2"] {
        all.expect_read(&lab, reader, "late.txt", "late");
    }
    stop(running);
}

#[apply(promise)]
fn a_node_behind_a_nat_joins_reads_and_is_read() {
    expect_that_a_node_joins_reads_and_is_read_behind(&[]);
}

#[apply(promise)]
fn a_node_behind_a_symmetric_nat_joins_reads_and_is_read() {
    expect_that_a_node_joins_reads_and_is_read_behind(&["--kind", "symmetric"]);
}

#[apply(promise)]
fn a_node_behind_two_nats_joins_reads_and_is_read() {
    expect_that_a_node_joins_reads_and_is_read_behind(&["--double"]);
}

#[apply(promise)]
fn nodes_behind_different_nats_see_each_others_names_through_a_public_one() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("3", &[]);
    lab.add_nat("n2", &["--kind", "symmetric"]);
    lab.add_nat("n3", &["--kind", "symmetric"]);
    let nodes = [("n1", &[] as &[_]), ("n2", SEED), ("n3", SEED)];
    let running = nodes.map(|(host, more)| start_node(&lab, host, folder.path(), more));
    let begun = Instant::now();
    expect_each_others_names(&lab, folder.path(), begun);
    stop(running);
}

#[apply(promise)]
fn a_node_behind_routers_that_forward_its_port_is_read_by_others() {
    let lab = Lab::up("2", &[]);
    lab.add_nat("n2", &["--kind", "symmetric", "--double", "--forward"]);
    expect_that_pairs_read(&lab, &[("n1", &[]), ("n2", SEED)], &[("n1", "n2")]);
}

/// Starts nodes on these hosts and expects that each pair of them reads each other's file.
fn expect_that_pairs_read(lab: &Lab, more: &[(&str, &[&str])], pairs: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let start = |(host, more): &(&str, &[&str])| start_node(lab, host, folder.path(), more);
    let running: Vec<_> = more.iter().map(start).collect();
    let both_ways = pairs
        .iter()
        .flat_map(|(one, other)| [(one, other), (other, one)]);
    for (reader, holder) in both_ways {
        Nodes(folder.path()).expect_read(lab, reader, &format!("{holder}.txt"), holder);
    }
    stop(running);
}

/// Expects that n2 and n3 list each other's file once `p2pfs wait` says that they see both peers.
fn expect_each_others_names(lab: &Lab, folder: &Path, begun: Instant) {
    let all = Nodes(folder);
    for (host, other) in [("n2", "n3.txt"), ("n3", "n2.txt")] {
        let wait = ["wait", "--mounted", "--peers", "2", "--timeout", WAIT_LIMIT];
        all.command(host, &wait).expect_ok();
        println!("{host} has the names after {:?}", begun.elapsed());
        let mounted = folder.join(host).join("mnt");
        let listed = run(lab.on(host).arg("ls").arg(mounted)).expect_ok();
        assert!(listed.contains(other), "{host}: {listed}");
    }
}

fn ip(lab: &Lab, host: &str, arguments: &str) {
    run(lab.on(host).arg("ip").args(arguments.split(' '))).expect_ok();
}

/// Links n1 and n3 by a separate network with these addresses, and takes n3 off the LAN.
fn move_to_own_link(lab: &Lab, device: &str, addresses: [&str; 2]) {
    lab.link("n1", "n3", device);
    ip(lab, "n3", "link set eth0 down");
    for (host, address) in ["n1", "n3"].into_iter().zip(addresses) {
        ip(lab, host, &format!("address add {address} dev {device}"));
        ip(lab, host, &format!("link set {device} up"));
    }
}

#[apply(promise)]
fn a_node_with_two_network_cards_is_a_member_in_both_networks() {
    let lab = Lab::up("3", &[]);
    move_to_own_link(&lab, "lan2", ["10.78.0.1/24", "10.78.0.3/24"]);
    let nodes = ["n1", "n2", "n3"].map(|host| (host, &[] as &[_]));
    expect_that_pairs_read(&lab, &nodes, &[("n1", "n2"), ("n1", "n3")]);
}

#[apply(promise)]
fn names_of_one_network_are_soon_in_the_other_through_a_node_with_two_network_cards() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("3", &[]);
    move_to_own_link(&lab, "lan2", ["10.78.0.1/24", "10.78.0.3/24"]);
    // The routers of both networks answer nothing.
    ip(&lab, "n2", "route replace default via 10.77.0.254 dev eth0");
    ip(&lab, "n3", "route replace default via 10.78.0.254 dev lan2");
    let hosts = ["n1", "n2", "n3"];
    let running = hosts.map(|host| start_node(&lab, host, folder.path(), &[]));
    let begun = Instant::now();
    expect_each_others_names(&lab, folder.path(), begun);
    stop(running);
}

#[apply(promise)]
#[takes("python3")]
fn a_node_with_two_network_cards_answers_each_host_of_one_network_by_mdns() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("3", &[]);
    lab.link("n1", "n3", "lan2");
    for (host, address) in [("n1", "10.78.0.1/24"), ("n3", "10.78.0.3/24")] {
        ip(&lab, host, &format!("address add {address} dev lan2"));
        ip(&lab, host, "link set lan2 up");
    }
    let node = start_node(&lab, "n1", folder.path(), &[]);
    Nodes(folder.path()).wait_for_file("n1", "n1.txt");
    let hosts: Vec<_> = (0..ASKING_HOSTS)
        .map(|i| format!("10.78.0.{}", 100 + i))
        .collect();
    for host in &hosts {
        ip(&lab, "n3", &format!("address add {host}/24 dev lan2"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/mdns-ask");
    let mut ask = lab.on("n3");
    let answered = run(ask.arg(script).arg("10.78.0.1").args(&hosts)).expect_ok();
    assert_eq!(answered.lines().collect::<Vec<_>>(), hosts);
    stop([node]);
}

#[apply(promise)]
fn a_node_whose_default_route_is_a_vpn_is_a_member_on_its_lan() {
    let lab = Lab::up("3", &[]);
    // The other end of the tunnel is another host, which has no route to the LAN.
    move_to_own_link(&lab, "vpn0", ["10.8.0.2/24", "10.8.0.1/24"]);
    ip(&lab, "n1", "route replace default via 10.8.0.1 dev vpn0");
    let seeded: &[(&str, &[&str])] = &[("n1", &[]), ("n2", SEED)];
    expect_that_pairs_read(&lab, seeded, &[("n1", "n2")]);
}

#[apply(promise)]
fn a_node_that_others_reach_by_ipv6_alone_is_a_member_although_it_advertises_ipv4() {
    let lab = Lab::up("2", &[]);
    ip(&lab, "n2", "-4 address flush dev eth0");
    let all: &[&str] = &["--listen", "[::]:1378"];
    let seeded: &[&str] = &["--listen", "[::]:1378", "--seed", "[fd77::1]:1378"];
    expect_that_pairs_read(&lab, &[("n1", all), ("n2", seeded)], &[("n1", "n2")]);
}

#[apply(promise)]
fn a_node_on_all_addresses_of_both_families_is_joined_through_each_address_of_localhost() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("1", &[]);
    let first = start_node(&lab, "n1", folder.path(), &["--listen", "[::]:1378"]);
    let all = Nodes(folder.path());
    all.wait_for_file("n1", "n1.txt");
    let mut running = vec![first];
    for (name, listen) in [("four", "127.0.0.1:1400"), ("six", "[::1]:1401")] {
        prepare_node(name, folder.path());
        let home = folder.path().join(name);
        let mut command = daemon_on(&lab, "n1", name, &home);
        command.arg("--share").arg(home.join("share"));
        command.args(["--listen", listen, "--seed", "localhost:1378"]);
        running.push(start(&mut command));
        all.wait_for_file(name, "n1.txt");
        all.wait_for_file("n1", &format!("{name}.txt"));
    }
    stop(running);
}

/// Maximum time for which a change of all addresses separates nodes that find each other by
/// multicast DNS.
const REJOINED_WITHIN: Duration = Duration::from_secs(30);

#[apply(promise)]
fn nodes_whose_addresses_all_change_at_once_are_together_again_within_30_seconds() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("3", &[]);
    let hosts = ["n1", "n2", "n3"];
    let running = hosts.map(|host| start_node(&lab, host, folder.path(), &[]));
    let all = Nodes(folder.path());
    let are_together = |network: &str| {
        let sees = |host: &str, other: &str| {
            let peers = all.command(host, &["peers"]).text();
            let at = format!("{network}.{}:1378", &other[1..]);
            peers
                .lines()
                .any(|row| row.contains(&at) && row.contains("alive"))
        };
        let mut pairs = hosts
            .iter()
            .flat_map(|host| hosts.iter().map(move |it| (host, it)));
        pairs.all(|(host, other)| host == other || sees(host, other))
    };
    eventually("all are together", HANG_LIMIT, || are_together("10.77.0"));
    for host in hosts {
        ip(&lab, host, "-4 address flush dev eth0");
    }
    for host in hosts {
        ip(
            &lab,
            host,
            &format!("address add 10.79.0.{}/24 brd + dev eth0", &host[1..]),
        );
        ip(&lab, host, "route replace default dev eth0");
    }
    let moved = Instant::now();
    eventually("all are together again", REJOINED_WITHIN, || {
        are_together("10.79.0")
    });
    println!("together again after {:?}", moved.elapsed());
    stop(running);
}

#[apply(promise)]
fn a_wait_for_peers_after_a_late_network_ends_when_their_names_are_there() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &[]);
    ip(&lab, "n1", "link set eth0 down");
    ip(&lab, "n1", "address flush dev eth0");
    let hosts = ["n1", "n2"];
    let running = hosts.map(|host| start_node(&lab, host, folder.path(), &[]));
    let all = Nodes(folder.path());
    for host in hosts {
        all.wait_for_file(host, &format!("{host}.txt"));
    }
    ip(&lab, "n1", "link set eth0 up");
    ip(&lab, "n1", "address add 10.77.0.1/24 brd + dev eth0");
    for (host, other) in [("n1", "n2.txt"), ("n2", "n1.txt")] {
        let wait = ["wait", "--peers", "1", "--timeout", WAIT_LIMIT];
        all.command(host, &wait).expect_ok();
        let mounted = folder.path().join(host).join("mnt");
        let listed = run(lab.on(host).arg("ls").arg(mounted)).expect_ok();
        assert!(listed.contains(other), "{host}: {listed}");
    }
    stop(running);
}
