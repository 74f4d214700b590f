//! What takes more than one machine's loopback: hosts on links of their own, and a real systemd.

mod broker;
mod doctor;
mod far;
mod lan;
mod packages;
mod restarts;
mod service;
mod state;
#[path = "../support/mod.rs"]
mod support;

fn main() {
    support::promise::run(Some(1), vec![]).exit();
}
