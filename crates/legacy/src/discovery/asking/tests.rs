//! Tests of how many responders one question tries.

use std::net::Ipv4Addr;

use super::*;

#[test]
fn tried_responders_are_bounded_in_total_and_for_each_address() {
    let at = |n: usize| SocketAddrV4::new(Ipv4Addr::LOCALHOST, n as u16 + 1);
    let mut running = RunningTries::default();
    for n in 0..TRIES_MAX {
        let here = at(n / TRIES_AT_ONE_MAX);
        assert!(running.has_room(here), "{n}");
        running.enter(here, 1000);
        let is_full = (n + 1) % TRIES_AT_ONE_MAX == 0;
        assert_eq!(running.has_room(here), !is_full, "{n} at one");
    }
    assert!(!running.has_room(at(99)), "in all");
}
