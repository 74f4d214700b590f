//! How a daemon selects its copy routine. For that it may execute itself a second time, which no
//! observer notices.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::ffi::CStr;
use std::fs;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[slow_copies];
const TUNABLE: &str = "glibc.cpu.x86_rep_movsb_threshold=";

/// Returns why the daemon does not need to restart, if the C library copies fast on this machine.
fn slow_copies() -> Option<String> {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |key: &str, value: &str| {
        let mut lines = processors.lines().filter_map(|line| line.split_once(':'));
        lines.any(|(name, is)| name.trim() == key && is.trim() == value)
    };
    // SAFETY: the library returns a constant string.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    let minor = version.to_str().unwrap_or_default().strip_prefix("2.");
    let is_old = minor.is_some_and(|minor| matches!(minor.parse(), Ok(32..40)));
    let is_slow = has("vendor_id", "AuthenticAMD") && has("cpu family", "25") && is_old;
    (!is_slow).then(|| "the C library copies fast on this processor".to_owned())
}

fn of_process(node: &Node, file: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{}/{file}", node.pid())).unwrap();
    text.split('\0')
        .map(|part| part.trim().to_owned())
        .collect()
}

#[apply(promise)]
fn a_daemon_restarted_for_faster_copies_keeps_its_process_and_arguments() {
    let mut cluster = Cluster::new();
    let node = cluster.start_with(NodeOptions {
        environment: vec![("GLIBC_TUNABLES", "glibc.malloc.check=0".to_owned())],
        ..NodeOptions::unmounted("node")
    });
    let variables = of_process(&node, "environ");
    // The loader may have split the text at its separators.
    let wanted = format!("GLIBC_TUNABLES={TUNABLE}0x40000000");
    let is_set = |it: &String| it.starts_with(&wanted);
    assert!(variables.iter().any(is_set), "{variables:?}");
    assert_eq!(of_process(&node, "comm"), ["p2pfs"]);
    let arguments = of_process(&node, "cmdline");
    assert!(arguments[0].ends_with("p2pfs"), "{arguments:?}");
    assert_eq!(arguments[1], "daemon");
    assert!(arguments.iter().any(|argument| argument == "node"));
}

#[apply(promise)]
fn configured_copy_settings_are_kept() {
    let mut cluster = Cluster::new();
    let chosen = format!("{TUNABLE}0x2000");
    let node = cluster.start_with(NodeOptions {
        environment: vec![("GLIBC_TUNABLES", chosen.clone())],
        ..NodeOptions::unmounted("node")
    });
    let variables = of_process(&node, "environ");
    let told = |it: &&String| it.starts_with("GLIBC_TUNABLES=");
    let told: Vec<_> = variables.iter().filter(told).collect();
    assert_eq!(told, [&format!("GLIBC_TUNABLES={chosen}")]);
}
