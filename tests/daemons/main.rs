//! Real daemons with real mounts on loopback, used as people use them: by commands, files, signals
//! and everyday programs.

mod busy_files;
mod clocks;
mod commands;
mod conditions;
mod copied_keys;
mod copies;
mod demo;
mod disks;
mod edges;
mod embedded;
mod exports;
mod failed_reads;
mod file_sizes;
mod forgotten;
mod frozen;
mod hostile;
mod keeping;
mod large_files;
mod leaving;
mod legacy;
mod mesh;
mod metered;
mod metrics;
mod model;
mod mount_helper;
mod nodes;
mod open_files;
mod own_versions;
mod pointers;
mod readers;
mod refusals;
mod replaced;
mod repositories;
mod responders;
mod restore;
mod resuming;
mod small_files;
mod standing;
#[path = "../support/mod.rs"]
mod support;
mod tools;
mod trees;
mod trust;
mod unread_log;
mod unwatchable;
mod waiting;
mod writing;

/// Number of concurrent tests. They wait for each other's clocks more than they compute, even on
/// two processors.
const AT_ONCE: usize = 7;

fn main() {
    let conclusion = support::promise::run(Some(AT_ONCE), vec![]);
    readers::end();
    tools::end();
    writing::end();
    conclusion.exit();
}
