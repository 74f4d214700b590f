//! The cost of a long path between two hosts for readers of small files.

use std::fs;
use std::path::Path;
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
const FILES: usize = 120;
/// Step through the files in an order that no program uses. It has no common divisor with their
/// number.
const STRIDE: usize = 37;

/// Moves a directory of small files into a share at once, so that it is listed whole.
fn share_directory(home: &Path, name: &str, seed: u64) {
    let (staged, bytes) = (home.join(name), noise(seed, FILES + 16 * 1024));
    fs::create_dir(&staged).unwrap();
    for number in 0..FILES {
        let length = 1024 + number * 7919 % (15 * 1024);
        let path = staged.join(format!("{number:04}"));
        fs::write(path, &bytes[number..number + length]).unwrap();
    }
    fs::rename(&staged, home.join("share").join(name)).unwrap();
}

fn time_of(command: &mut Command) -> Duration {
    let begun = Instant::now();
    run(command).expect_ok();
    begun.elapsed()
}

/// The comparison is with a reader that pays one round trip a file, on the same link in the same
/// minute, so a busy machine slows both.
#[apply(promise)]
fn a_directory_of_small_files_costs_less_than_a_round_trip_for_each() {
    let folder = tempfile::tempdir().unwrap();
    set_mode(folder.path(), 0o755);
    let lab = Lab::up("2", &["--delay", "20ms"]);
    let far = start_node(&lab, "n1", folder.path(), &[]);
    let near = start_node(&lab, "n2", folder.path(), &["--seed", "10.77.0.1:1378"]);
    let (theirs, mounted) = (folder.path().join("n1"), folder.path().join("n2/mnt"));
    for (seed, name) in [(1, "in-order"), (2, "here-and-there")] {
        share_directory(&theirs, name, seed);
        eventually("all are listed", HANG_LIMIT, || {
            let listed = run(lab.on("n2").arg("ls").arg(mounted.join(name))).text();
            listed.lines().count() == FILES
        });
    }
    let numbers = (0..FILES).map(|step| step * STRIDE % FILES);
    let paths = numbers.map(|number| mounted.join(format!("here-and-there/{number:04}")));
    let one_by_one = time_of(lab.on("n2").arg("cat").args(paths));
    let (source, copy) = (theirs.join("share/in-order"), folder.path().join("copy"));
    let ours = [&mounted.join("in-order"), &copy];
    let in_order = time_of(lab.on("n2").args(["cp", "-r"]).args(ours));
    run(Command::new("diff").arg("-r").args([&source, &copy])).expect_ok();
    assert!(in_order < one_by_one / 2, "{in_order:?} and {one_by_one:?}");
    stop([far, near]);
}
