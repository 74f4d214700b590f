//! Reads of the mount that fail: the journal, the events and the metrics name the file and the
//! reason.

use std::fs::{self, File};
use std::io::{self, Read};

use macro_rules_attribute::apply;

use crate::metrics::{metrics, with_metrics};
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// Returns the number of failed reads for a reason.
fn failed(node: &Node, reason: &str) -> u64 {
    let name = format!("p2pfs_failed_reads_total{{reason=\"{reason}\"}} ");
    let told = metrics(node);
    let value = told.lines().find_map(|line| line.strip_prefix(&*name));
    let value = value.unwrap_or_else(|| panic!("{name}: {told}"));
    value.parse().unwrap()
}

fn is_failure(read: io::Result<usize>) -> bool {
    let errno = read.unwrap_err().raw_os_error();
    [Some(libc::EIO), Some(libc::ESTALE)].contains(&errno)
}

#[apply(promise)]
#[takes("curl")]
fn a_failed_read_is_told_with_its_file_and_reason_by_journal_events_and_metrics() {
    let mut cluster = Cluster::new();
    let mut author = cluster.start("author");
    let deadline = NodeOptions {
        config: "[mount]\nread_deadline = '2s'\n".to_owned(),
        ..NodeOptions::new("reader")
    };
    let options = with_metrics(&cluster, deadline, "");
    let mut reader = cluster.start_with(options);
    author.write("docs/silent.bin", &noise(1, 1 << 20));
    author.write("docs/gone.bin", &noise(2, 1 << 20));
    for name in ["docs/silent.bin", "docs/gone.bin"] {
        reader.wait_for_file(name);
    }
    let reasons = [
        "no-holder",
        "deadline",
        "wrong-bytes",
        "gone",
        "disk",
        "limit",
    ];
    assert!(reasons.iter().all(|reason| failed(&reader, reason) == 0));

    let held = author.hold();
    let path = reader.mounted("docs/silent.bin");
    assert!(is_failure(fs::read(path).map(|read| read.len())));
    let in_time = ["no-holder", "deadline"];
    let unanswered = || in_time.iter().map(|it| failed(&reader, it)).sum::<u64>();
    assert!(unanswered() > 0);
    drop(held);

    // A reader has the version open, and no node has it or names it any longer.
    let mut open = File::open(reader.mounted("docs/gone.bin")).unwrap();
    author.stop();
    fs::remove_file(author.share.join("docs/gone.bin")).unwrap();
    author.launch();
    eventually("it is no longer listed", HANG_LIMIT, || {
        !reader.mounted("docs/gone.bin").exists()
    });
    assert!(is_failure(open.read(&mut [0; 4096])));
    assert!(failed(&reader, "gone") > 0);

    let events = reader.cli(&["events"]).expect_ok();
    let lines = |name: &str| {
        let start = format!("could not fetch {name} (1.0 MiB): ");
        let lines = events.lines().filter(|line| line.contains(&start));
        lines.count()
    };
    assert_eq!(lines("docs/silent.bin"), 1, "{events}");
    assert_eq!(lines("docs/gone.bin"), 1, "{events}");
    assert!(
        events.contains("this version of the file is gone"),
        "{events}"
    );
    assert!(!events.contains("listed no more"), "{events}");
    let log = reader.stop().stderr;
    for name in ["docs/silent.bin", "docs/gone.bin"] {
        let words = format!("a read of {name} failed: ");
        let told = log.lines().filter(|line| line.contains(&words));
        assert_eq!(told.count(), 1, "{name}: {log}");
    }
}
