//! Tests that need more than one machine's loopback: hosts on separate links, and a real systemd.

mod broker;
mod doctor;
mod far;
mod homes;
mod lan;
mod narrow;
mod packages;
mod reach;
mod restarts;
mod service;
mod starting;
mod state;
#[path = "../support/mod.rs"]
mod support;
mod users;

/// Number of concurrent tests. A machine that boots, and a host that waits for another's silence,
/// compute little. Each test has its own machine or hosts.
const AT_ONCE: usize = 5;

fn main() {
    support::promise::run(Some(AT_ONCE), vec![]).exit();
}
