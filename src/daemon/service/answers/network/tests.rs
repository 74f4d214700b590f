//! Tests of the advice about addresses and the network.

use super::*;
use crate::daemon::control::CheckState;
use crate::daemon::service::conditions::finding_of;
use p2pfs_node::{Condition, Severity};

#[test]
fn a_user_is_not_told_to_listen_on_the_current_address() {
    let here: SocketAddr = "127.0.0.1:1378".parse().unwrap();
    for (listen, advised) in [
        ("127.0.0.1:1378", true),
        ("0.0.0.0:1378", false),
        ("[::]:1378", false),
    ] {
        let check = loopback_alone(here, listen.parse().unwrap(), false);
        let remedy = check.remedy.unwrap();
        assert_eq!(remedy.contains("listen ="), advised, "{listen}: {remedy}");
    }
}

#[test]
fn a_machine_with_link_local_addresses_alone_is_told_so() {
    let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                 fe80000000000000022248fffe0b1c2d 02 40 20 80     eth0\n";
    assert!(has_link_local(table));
    assert!(!has_link_local(table.lines().next().unwrap()));
    let here = "127.0.0.1:1378".parse().unwrap();
    let check = loopback_alone(here, "[::]:1378".parse().unwrap(), true);
    assert!(
        check.found.contains("link-local addresses alone"),
        "{}",
        check.found
    );
}

#[test]
fn a_clock_difference_is_reported_from_half_a_minute_with_its_direction() {
    let here = "10.0.0.1:1378".parse().unwrap();
    let told = |unix_ms: u64| {
        let reached = Reached {
            unix_ms: Some(unix_ms),
            trouble: None,
        };
        let checks = reached_checks("b", here, &reached, 1_000_000);
        checks.get(1).map(|check| check.found.clone())
    };
    assert_eq!(told(1_000_000), None);
    assert_eq!(told(1_030_000), None);
    assert_eq!(
        told(1_031_000).unwrap(),
        "this machine's is 31 s behind it (here 1970-01-01 00:16:40 UTC, there 1970-01-01 00:17:11 \
         UTC)"
    );
    let ahead = told(700_000).unwrap();
    assert!(
        ahead.starts_with("this machine's is 5 min ahead of it (here "),
        "{ahead}"
    );
}

#[test]
fn a_clock_off_by_a_day_is_blamed_for_silence_and_not_a_firewall() {
    let told = |hours: u64| {
        let reached = Reached {
            unix_ms: Some(hours * 3_600_000),
            trouble: None,
        };
        let gap = ClockGap::of(&reached, 100 * 3_600_000);
        silence("seed a".to_owned(), 1378, gap.as_ref()).sentence()
    };
    assert!(told(70).contains("30 hours ahead of it"), "{}", told(70));
    assert!(told(130).contains("30 hours behind it"), "{}", told(130));
    assert!(told(99).contains("firewalls"), "{}", told(99));
    let unknown = silence("seed a".to_owned(), 1378, None).sentence();
    assert!(unknown.contains("firewalls"), "{unknown}");
}

#[test]
fn findings_with_the_present_times_have_one_cause() {
    let gap = |now_ms: u64| {
        let reached = Reached {
            unix_ms: Some(now_ms + 30 * 3_600_000),
            trouble: None,
        };
        ClockGap::of(&reached, now_ms)
    };
    let silent = |now_ms| silence("seed a".to_owned(), 1378, gap(now_ms).as_ref());
    let off = |now_ms| gap(now_ms).unwrap().check("a").unwrap();
    for (now, later) in [(silent(0), silent(60_000)), (off(0), off(60_000))] {
        let [now, later] = [now, later].map(|check| finding_of(&check));
        assert_ne!(now.found, later.found);
        assert!(now.cause.is_some() && now.cause == later.cause, "{now:?}");
    }
}

/// Returns whether status and doctor show the finding of a check as a warning.
fn is_lasting_warning(check: &Check) -> bool {
    let severity = Condition::Unreached.text().severity;
    check.state == CheckState::Warning && check.is_condition && severity == Severity::Warning
}

#[test]
fn own_address_that_this_machine_cannot_reach_has_a_closed_firewall_and_no_nat() {
    let address = "10.0.0.1:1378".parse().unwrap();
    let own = |probed, is_here| address_check(address, &probed, is_here);
    let closed = own(Probed::Silent, true);
    assert_eq!(closed.state, CheckState::Failed);
    let said = closed.sentence();
    assert!(
        said.contains("port 1378 through this machine's firewall (ufw"),
        "{said}"
    );
    assert!(!said.contains("NAT"), "{said}");
    assert_eq!(own(Probed::Ourselves, true).state, CheckState::Ok);
    for behind_a_nat in [own(Probed::Silent, false), own(Probed::Closed, true)] {
        let said = behind_a_nat.sentence();
        assert_eq!(behind_a_nat.state, CheckState::Warning, "{said}");
        assert!(said.contains("fine behind a NAT"), "{said}");
    }
}

#[test]
fn what_is_fine_behind_a_nat_is_a_warning() {
    let address = "10.0.0.2:1378".parse().unwrap();
    let told = |kind| {
        let error = NodeError::Net(NetError::Unreachable { address, kind });
        peer_trouble("b", address, &error)
    };
    let silent = told(ErrorKind::TimedOut);
    assert!(silent.sentence().contains("fine for a node behind a NAT"));
    let unroutable = [ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable].map(told);
    for check in [&silent].into_iter().chain(&unroutable) {
        assert!(is_lasting_warning(check), "{}", check.sentence());
    }
}

#[test]
fn a_firewall_is_blamed_for_silence_and_not_for_a_down_or_refusing_peer() {
    let address = "10.0.0.2:1378".parse().unwrap();
    let told = |error| peer_trouble("b", address, &NodeError::Net(error)).sentence();
    let unreachable = |kind| NetError::Unreachable { address, kind };
    let silent = told(unreachable(ErrorKind::TimedOut));
    assert!(
        silent.contains("let TCP and UDP port 1378 through its firewall"),
        "{silent}"
    );
    let down = told(unreachable(ErrorKind::ConnectionRefused));
    assert!(down.contains("start p2pfs there"), "{down}");
    let limited = told(NetError::OpenFiles {
        address,
        why: "it may open no more; raise the limit".to_owned(),
    });
    assert!(limited.contains("raise the limit"), "{limited}");
    for other in [
        down,
        limited,
        told(unreachable(ErrorKind::NetworkUnreachable)),
        told(NetError::TooManyConnections),
    ] {
        assert!(!other.contains("firewall"), "{other}");
    }
}

#[test]
fn a_peer_that_cannot_dial_back_names_the_port_to_open() {
    let here = "10.0.0.1:1378".parse().unwrap();
    let reached = Reached {
        unix_ms: Some(0),
        trouble: Some("10.0.0.1:1378 does not answer".to_owned()),
    };
    let checks = reached_checks("b", here, &reached, 0);
    assert_eq!(checks[0].state, CheckState::Failed);
    assert!(checks[0].sentence().contains("port 1378"));
}

#[test]
fn a_peer_that_cannot_dial_through_the_router_names_the_nat_and_no_firewall() {
    let here = "10.0.0.1:1378".parse().unwrap();
    for trouble in [
        "203.0.113.7:40123 does not answer",
        "203.0.113.7:1378: no route to host",
        "another node answers on 203.0.113.7:1378",
    ] {
        let reached = Reached {
            unix_ms: Some(0),
            trouble: Some(trouble.to_owned()),
        };
        let said = reached_checks("b", here, &reached, 0)[0].sentence();
        assert!(said.contains("behind the NAT of 203.0.113.7"), "{said}");
        assert!(is_lasting_warning(
            &reached_checks("b", here, &reached, 0)[0]
        ));
        assert!(
            said.contains("only nodes that this node can dial read its files"),
            "{said}"
        );
        assert!(!said.contains("firewall"), "{said}");
    }
}
