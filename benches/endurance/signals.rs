//! Ctrl-C of a reader that waits for bytes or for a name that do not arrive.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::content::noise;
use super::support::daemon::{Cluster, NodeOptions};
use super::support::process::{Running, eventually, start};
use super::{setting, table};

/// Maximum time until a reader has ended.
const GOAL_MS: f64 = 200.0;
/// Far longer than a trial takes, so that no deadline ends a wait.
const NEVER: &str = "600s";
/// Kernel functions in which a process waits for an answer of the mount or for a page of it.
const MOUNT: [&str; 3] = ["request_wait_answer", "folio_wait", "fuse"];

pub(crate) fn run() {
    let rounds = setting("P2PFS_BENCH_SIGNALS", 1000);
    let mut cluster = Cluster::new();
    let far = cluster.start("far");
    // This peer receives requests and never answers.
    let legacy_peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let near = cluster.start_with(NodeOptions {
        more: vec!["--legacy".to_owned()],
        config: format!(
            "[mount]\nread_deadline = '{NEVER}'\n[legacy]\nmembers = ['{}']\nlookup = '{NEVER}'\n",
            legacy_peer.local_addr().unwrap()
        ),
        ..NodeOptions::new("near")
    });
    far.write("far.bin", &noise(7, 64 << 20));
    near.wait_for_file("far.bin");
    far.signal(libc::SIGSTOP);
    let file = near.mounted("far.bin");
    let unknown = near.mounted("unknown");
    let input = format!("if={}", file.display());
    let direct = ["of=/dev/null", "bs=4096", "count=1", "iflag=direct"];
    let mut dd = Command::new("dd");
    dd.arg(input).args(direct);
    for (what, command, place) in [
        (
            "Ctrl-C of a buffered reader",
            Command::new("cat").arg(&file),
            &MOUNT[..],
        ),
        ("Ctrl-C of an O_DIRECT reader", &mut dd, &MOUNT),
        (
            "Ctrl-C of a stat of a name that may be a legacy peer's",
            Command::new("stat").arg(&unknown),
            &MOUNT,
        ),
        (
            "the machine: Ctrl-C of a sleep",
            Command::new("sleep").arg("600"),
            &["nanosleep"],
        ),
    ] {
        let took: Vec<Duration> = (0..rounds).map(|_| interrupt(command, place)).collect();
        table::times(what, &took, GOAL_MS);
    }
    far.signal(libc::SIGCONT);
}

/// Starts the reader, waits until it is waiting, and interrupts it. Returns how long its end took.
fn interrupt(command: &mut Command, place: &[&str]) -> Duration {
    let mut reader = start(command);
    eventually("the reader waits", Duration::from_secs(60), || {
        assert!(reader.is_running(), "{command:?} ended by itself");
        waits_in(&reader, place)
    });
    let begun = Instant::now();
    reader.signal(libc::SIGINT);
    let (_, within) = reader.end_within(Duration::from_secs(60));
    assert!(within, "{command:?} stayed");
    begun.elapsed()
}

/// Returns whether the process waits in one of these kernel functions. The check takes no lock that
/// a blocked reader may hold.
fn waits_in(reader: &Running, places: &[&str]) -> bool {
    let folder = Path::new("/proc").join(reader.pid().to_string());
    let place = std::fs::read_to_string(folder.join("wchan")).unwrap_or_default();
    places.iter().any(|name| place.contains(name))
}
