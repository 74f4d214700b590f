//! What a long way between two hosts costs who reads small files.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use super::lan::{start_node, stop};
use crate::support::content::noise;
use crate::support::daemon::set_mode;
use crate::support::lab::{Lab, far_hosts};
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, far_hosts, mount];
const PATIENCE: Duration = Duration::from_secs(60);
/// The way there and back.
const ROUND_TRIP: Duration = Duration::from_millis(40);
const FILES: usize = 400;

#[apply(promise)]
fn a_directory_of_small_files_does_not_cost_a_round_trip_a_file() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &["--delay", "20ms"]);
    let far = start_node(&lab, "n1", folder.path(), &[]);
    let near = start_node(&lab, "n2", folder.path(), &["--seed", "10.77.0.1:1378"]);
    let (staged, bytes) = (folder.path().join("n1/tree"), noise(1, FILES + 16 * 1024));
    fs::create_dir(&staged).unwrap();
    for number in 0..FILES {
        let length = 1024 + number * 7919 % (15 * 1024);
        let path = staged.join(format!("{number:04}"));
        fs::write(path, &bytes[number..number + length]).unwrap();
    }
    let share = folder.path().join("n1/share/tree");
    fs::rename(&staged, &share).unwrap();
    let source = folder.path().join("n2/mnt/tree");
    eventually("all are listed", PATIENCE, || {
        let listed = run(lab.on("n2").arg("ls").arg(&source)).text();
        listed.lines().count() == FILES
    });
    let copy = folder.path().join("copy");
    let begun = Instant::now();
    run(lab.on("n2").arg("cp").arg("-r").arg(&source).arg(&copy)).expect_ok();
    let took = begun.elapsed();
    run(Command::new("diff").arg("-r").arg(&share).arg(&copy)).expect_ok();
    // one at a time they take 16 s and more
    assert!(took < ROUND_TRIP * FILES as u32 / 2, "{took:?}");
    stop([far, near]);
}
