//! Bytes that the read-ahead of directories transfers in vain when a program reads one file in ten.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::figures::{Figures, Unit, report};
use crate::support::process::{P2PFS, eventually, run};
use crate::trials::{count_files, make_small_files};
use crate::{Field, setting};

/// Awk programs that choose one file in ten of those that `find` lists, in its order.
const CHOICES: [(&str, &str); 2] = [
    ("each tenth", "NR % 10 == 0"),
    ("one in ten by chance", "BEGIN { srand(7) } rand() < 0.1"),
];
/// Time without a new byte after which all requests count as finished.
const REST: Duration = Duration::from_secs(1);
const SEEN_LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn figures() -> [Figures; 2] {
    CHOICES.map(|(name, _)| Figures::new(name))
}

pub(crate) fn what(count: usize) -> String {
    format!("came beyond what was read, of it; one cold file in ten of {count} read as listed")
}

/// Runs the trial between neighbours on one machine.
pub(crate) fn ahead(field: &Field) {
    let count = setting("P2PFS_BENCH_FILES", 5000);
    let mut figures = figures();
    for round in 0..field.rounds {
        for (choice, figures) in figures.iter_mut().enumerate() {
            let name = format!("sparse-{round}-{choice}");
            let staged = field.server().home.join(&name);
            make_small_files(&staged, (20_000 + 2 * round + choice) as u64, count);
            field.publish(&staged, &name, &[]);
            let tree = field.reader().mounted(&name);
            eventually("all small files are listed", SEEN_LIMIT, || {
                count_files(&tree) == count
            });
            let shell = Command::new("env");
            figures.add(percent(shell, &field.reader().socket(), &tree, choice));
            field.withdraw(&name);
        }
    }
    report(&what(count), Unit::Percent, &figures);
}

/// Reads one file in ten of a tree with one program. Returns the received bytes beyond those that
/// it read, as a share of these. `prefix` runs the command.
pub(crate) fn percent(mut prefix: Command, socket: &Path, tree: &Path, choice: usize) -> f64 {
    let before = received_bytes(socket);
    let (_, chosen) = CHOICES[choice];
    let line = format!("find . -type f | awk '{chosen}' | xargs -n 100000 cat | wc -c");
    let read = run(prefix
        .args(["sh", "-c"])
        .arg(format!("cd {} && {line}", tree.display())));
    let read: u64 = read.expect_ok().trim().parse().unwrap();
    let mut came = received_bytes(socket);
    loop {
        thread::sleep(REST);
        let now = received_bytes(socket);
        if now == came {
            break;
        }
        came = now;
    }
    assert!(read > 0, "nothing was read of {}", tree.display());
    (came - before).saturating_sub(read) as f64 / read as f64 * 100.0
}

/// Returns the file bytes that a daemon has received.
fn received_bytes(socket: &Path) -> u64 {
    let mut status = Command::new(P2PFS);
    let status = run(status.args(["status", "--json", "--socket"]).arg(socket)).expect_json();
    status["traffic"]["received_bytes"].as_u64().unwrap()
}
