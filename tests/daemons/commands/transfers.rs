//! Commands that move or limit bytes: prefetch and limits.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use macro_rules_attribute::apply;

use super::NEEDS;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
fn a_prefetch_of_names_that_cannot_fit_together_is_refused_at_once() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let names: Vec<String> = (0..40).map(|number| format!("{number}.iso")).collect();
    for (seed, name) in names.iter().enumerate() {
        author.write(name, &noise(seed as u64, 1 << 20));
    }
    let reader = cluster.start_with(NodeOptions {
        config: "[cache]\nsize = '36MiB'\nfloor = '0B'\n".to_owned(),
        ..NodeOptions::new("reader")
    });
    names.iter().for_each(|name| reader.wait_for_file(name));
    let mut all = vec!["prefetch"];
    all.extend(names.iter().map(String::as_str));
    let refused = reader.cli(&all);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.text());
    assert!(refused.stderr.contains("do not fit"), "{}", refused.stderr);
    let cached = reader.cli(&["cache", "ls", "--json"]).expect_json();
    assert_eq!(cached["entries"], serde_json::json!([]));
    let some = reader.cli(&all[..21]).expect_ok();
    assert!(some.contains("20 files"), "{some}");
}

#[apply(promise)]
fn a_prefetch_that_cannot_fit_is_refused_at_once() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let reader = cluster.start_with(NodeOptions {
        more: vec!["--cache-size".to_owned(), "4MiB".to_owned()],
        ..NodeOptions::new("reader")
    });
    for number in 0..3 {
        author.write(&format!("many/{number}"), &noise(number, 2 << 20));
        reader.wait_for_file(&format!("many/{number}"));
    }
    let refused = reader.cli(&["prefetch", "many"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("do not fit"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("cache resize"),
        "{}",
        refused.stderr
    );
    let status = reader.cli(&["status", "--json"]).expect_json();
    assert_eq!(status["cache"]["used_bytes"], 0);
    reader.cli(&["prefetch", "many/0"]).expect_ok();
}

#[apply(promise)]
fn get_to_a_name_of_standard_output_writes_there_and_keeps_the_name() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("docs/a", b"text");
    node.wait_for_file("docs/a");
    let (name, got) = (node.home.join("stdout"), node.home.join("got"));
    symlink("/proc/self/fd/1", &name).unwrap();
    let mut get = node.cli_command(&["get", "docs/a", "--json"]);
    get.arg("-o").arg(&name);
    get.stdout(File::create(&got).unwrap());
    assert!(get.status().unwrap().success());
    assert_eq!(fs::read(&got).unwrap(), b"text");
    let left = fs::read_link(&name).unwrap();
    assert_eq!(left, Path::new("/proc/self/fd/1"));
}

#[apply(promise)]
fn get_of_an_own_file_that_changes_meanwhile_fails() {
    let mut cluster = Cluster::new();
    let one = cluster.start("one");
    one.write("file", &noise(1, 1 << 20));
    one.wait_for_file("file");
    let (mut read, written) = io::pipe().unwrap();
    let mut get = one.cli_command(&["get", "file", "-o", "-"]);
    let getting = start_into(&mut get, written);
    // The pipe holds only a part of the file.
    read.read_exact(&mut [0]).unwrap();
    let file = File::options().write(true).open(one.share.join("file"));
    file.unwrap().write_all_at(b"new", 1 << 19).unwrap();
    let mut rest = Vec::new();
    read.read_to_end(&mut rest).unwrap();
    let got = getting.finish(HANG_LIMIT);
    assert_eq!(got.status.code(), Some(1));
    assert!(
        got.stderr.contains("was changed while it"),
        "{}",
        got.stderr
    );
}

#[apply(promise)]
fn a_prefetch_stops_on_request() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let reader = cluster.start("reader");
    author.write("large", &noise(1, 64 << 20));
    reader.wait_for_file("large");
    author.signal(libc::SIGSTOP);
    let prefetch = start(&mut reader.cli_command(&["prefetch", "large"]));
    let wanted = || {
        let top = reader.cli(&["top", "--once", "--json"]).expect_json();
        let transfers = top["transfers"].as_array().unwrap().clone();
        transfers.iter().any(|transfer| transfer["whole"] == true)
    };
    eventually("it is being fetched", HANG_LIMIT, wanted);
    prefetch.signal(libc::SIGINT);
    prefetch.end_within(HANG_LIMIT);
    let is_over = || !wanted();
    eventually("nothing is fetched any more", HANG_LIMIT, is_over);
    author.signal(libc::SIGCONT);
}

#[apply(promise)]
fn transfer_limits_hold_in_both_directions_and_return_to_the_configured_ones() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let reader = cluster.start_with(NodeOptions {
        config: "[limits]\ndown = '2MiB/s'\n".to_owned(),
        ..NodeOptions::new("reader")
    });
    for name in ["down", "up", "free"] {
        author.write(name, &noise(name.len() as u64, 8 << 20));
        reader.wait_for_file(name);
    }
    let seconds = |name: &str| {
        let begun = std::time::Instant::now();
        reader.cli(&["prefetch", name]).expect_ok();
        begun.elapsed().as_secs_f64()
    };
    // 8 MiB take 4 s at 2 MiB/s, less the burst that may pass at once.
    assert!(seconds("down") > 2.0);
    let free = reader
        .cli(&["limits", "--down", "none", "--json"])
        .expect_json();
    assert!(free.get("down_bytes_per_s").is_none(), "{free}");
    assert_eq!(free["configured_down_bytes_per_s"], 2 << 20);
    author.cli(&["limits", "--up", "2MiB/s"]).expect_ok();
    assert!(seconds("up") > 2.0);
    let text = author.cli(&["limits"]).expect_ok();
    assert!(
        text.contains("2MiB/s, temporary; configured: none"),
        "{text}"
    );
    author.cli(&["limits", "--configured"]).expect_ok();
    reader.cli(&["limits", "--configured"]).expect_ok();
    let text = reader.cli(&["limits"]).expect_ok();
    assert!(text.contains("down     2MiB/s, as configured"), "{text}");
    fs::write(reader.home.join("p2pfs.toml"), "").unwrap();
    reader.signal(libc::SIGHUP);
    eventually("the reload lifts the limit", HANG_LIMIT, || {
        let limits = reader.cli(&["limits", "--json"]).expect_json();
        limits.get("down_bytes_per_s").is_none()
    });
    assert!(fs::read(reader.mounted("free")).unwrap() == noise(4, 8 << 20));
}

#[apply(promise)]
fn get_of_a_dangling_link_says_so_and_names_its_target() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("there", b"1");
    for (name, target) in [("dangling", "gone/away"), ("good", "there")] {
        std::os::unix::fs::symlink(target, node.share.join(name)).unwrap();
        node.wait_for_file(name);
    }
    let refused = node.cli(&["get", "dangling"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = refused.stderr;
    let expected = "dangling is a link to nothing: no node shares gone/away";
    assert!(said.contains(expected), "{said}");
    let refused = node.cli(&["prefetch", "dangling"]);
    let said = refused.stderr;
    assert!(
        said.contains("a link to nothing: no node shares gone/away"),
        "{said}"
    );
    assert_eq!(node.cli(&["get", "good", "-o", "-"]).expect_ok(), "1");
}

#[apply(promise)]
fn a_pin_is_confirmed_at_once_whatever_is_present() {
    let mut cluster = Cluster::new();
    let (author, reader) = (cluster.start("author"), cluster.start("reader"));
    author.write("file", &noise(1, 8 << 20));
    reader.wait_for_file("file");
    // No byte of the file arrives.
    author.signal(libc::SIGSTOP);
    reader.cli(&["pin", "file"]).expect_ok();
    let listed = reader.cli(&["cache", "ls", "--json"]).expect_json();
    let status = reader.cli(&["status", "--json"]).expect_json();
    author.signal(libc::SIGCONT);
    let entry = &listed["entries"][0];
    assert_eq!(entry["pinned"], true, "{listed}");
    assert_eq!(entry["size_bytes"], 8 << 20, "{listed}");
    assert_eq!(entry["names"][0]["path"], "file", "{listed}");
    assert_eq!(status["cache"]["pinned_bytes"], 8 << 20, "{status}");
}

#[apply(promise)]
fn a_later_pin_does_not_wait_behind_large_ones() {
    const LARGE: usize = 6;
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let reader = cluster.start("reader");
    for number in 0..LARGE {
        author.write(&format!("large/{number}"), &noise(number as u64, 8 << 20));
        reader.wait_for_file(&format!("large/{number}"));
    }
    author.write("small", &noise(77, 60_000));
    reader.wait_for_file("small");
    // The whole file takes a minute and a half.
    author.cli(&["limits", "--up", "512KiB/s"]).expect_ok();
    reader.cli(&["pin", "large"]).expect_ok();
    reader.cli(&["pin", "small"]).expect_ok();
    let cached = |name: &str| {
        let listed = reader.cli(&["ls", "--json", name]).expect_json();
        let entries = listed["entries"].as_array().unwrap().clone();
        let bytes = entries
            .iter()
            .map(|it| it["cached_bytes"].as_u64().unwrap());
        bytes.sum::<u64>()
    };
    eventually("the small one is here", HANG_LIMIT, || {
        cached("small") == 60_000
    });
    assert!(cached("large") < (LARGE as u64) << 22, "most are not");
}
