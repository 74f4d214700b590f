//! What takes more than one machine's loopback: hosts on links of their own, and a real systemd.

mod broker;
mod doctor;
mod far;
mod lan;
mod packages;
mod reach;
mod restarts;
mod service;
mod starting;
mod state;
#[path = "../support/mod.rs"]
mod support;
mod users;

/// So many promises are tried at once: a machine that boots or a host that waits for another's
/// silence computes little. Of the hosts on links there is one set.
const AT_ONCE: usize = 3;

fn main() {
    support::promise::run(Some(AT_ONCE), vec![]).exit();
}
