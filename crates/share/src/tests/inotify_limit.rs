//! Test of a node that starts when no inotify instance is left.

use std::process::Command;

use super::*;

/// Limit of inotify instances of the caller's user namespace.
const LIMIT: &str = "/proc/sys/user/max_inotify_instances";
/// Set in the process that runs in a user namespace of its own.
const IN_NAMESPACE: &str = "P2PFS_TEST_INOTIFY_LIMIT";
/// Exit status of the shell if the limit cannot be set. It is automake's status for a skipped test.
const SKIPPED: i32 = 77;

#[test]
fn rescan_watches_again_after_inotify_instances_were_used_up() {
    if std::env::var_os(IN_NAMESPACE).is_some() {
        return start_without_instances();
    }
    let name = "tests::inotify_limit::rescan_watches_again_after_inotify_instances_were_used_up";
    let script = format!("echo 0 >{LIMIT} || exit {SKIPPED}; exec \"$@\"");
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "sh", "-c", &script, "sh"]);
    unshare.arg(std::env::current_exe().unwrap());
    unshare.args(["--exact", name, "--nocapture"]);
    let ran = unshare.env(IN_NAMESPACE, "1").output();
    let ran = match ran {
        Ok(ran) if ran.status.code() != Some(SKIPPED) => ran,
        other => return eprintln!("SKIPPED: no user namespace with a limit: {other:?}"),
    };
    let errors = String::from_utf8_lossy(&ran.stderr);
    if errors.starts_with("unshare:") {
        return eprintln!("SKIPPED: {errors}");
    }
    assert!(ran.status.success(), "{errors}");
}

fn start_without_instances() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    bench.start();
    assert!(bench.status().warning.unwrap().contains("instances"));
    assert_eq!(bench.standing_warnings().len(), 1);
    fs::write(LIMIT, "8").unwrap();
    bench.set().rescan();
    bench.settle();
    assert_eq!(bench.status().warning, None);
    assert!(bench.standing_warnings().is_empty());
    bench.write("d/f", b"f");
    bench.wait_for("reported by the kernel", |b| b.has("d/f", b"f"));
}
