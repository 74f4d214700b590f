//! Fetched bytes stay: a fetch that was cut short by the end of either node resumes from there.

use std::fs;
use std::process::Command;
use std::thread;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];
/// Size of the file. At the end of a node, the bytes in flight may be fetched again: a few MiB, far
/// less than half.
const SIZE: usize = 48 << 20;

/// Returns a holder that sends slowly, a reader, and the content.
fn slow_holder() -> (Cluster, Vec<Node>, Vec<u8>) {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["holder", "reader"]);
    let bytes = noise(9, SIZE);
    nodes[0].write("file", &bytes);
    nodes[1].wait_for_file("file");
    nodes[0].cli(&["limits", "--up", "12MiB/s"]).expect_ok();
    (cluster, nodes, bytes)
}

fn get(reader: &Node) -> Command {
    let mut command = reader.cli_command(&["get", "file"]);
    command.arg("-o").arg(reader.home.join("copy"));
    command
}

/// Starts a `get` and waits until half of the file is here.
fn half_way(reader: &Node) -> Running {
    let get = start(&mut get(reader));
    eventually("half of it is here", HANG_LIMIT, || {
        reader.traffic("received_bytes") >= SIZE / 2
    });
    get
}

fn get_again(reader: &Node, bytes: &[u8]) {
    run(&mut get(reader)).expect_ok();
    assert!(fs::read(reader.home.join("copy")).unwrap() == bytes);
}

#[apply(promise)]
fn a_get_whose_own_daemon_was_killed_resumes_from_the_cache() {
    let (_cluster, mut nodes, bytes) = slow_holder();
    let get = half_way(&nodes[1]);
    nodes[1].kill();
    // On a slow machine, the command may have ended before the kill.
    let first = get.finish(HANG_LIMIT);
    let is_there = nodes[1].home.join("copy").exists();
    assert_eq!(first.status.success(), is_there, "{}", first.stderr);
    nodes[0].cli(&["limits", "--up", "none"]).expect_ok();
    nodes[1].launch();
    nodes[1].wait_for_file("file");
    get_again(&nodes[1], &bytes);
    let sent = nodes[0].traffic("sent_bytes");
    assert!(sent <= SIZE * 5 / 4, "{sent} bytes sent of {SIZE}");
}

#[apply(promise)]
fn a_cached_file_is_fetched_whole_any_number_of_times_concurrently() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["holder", "reader"]);
    let bytes = noise(10, 1 << 20);
    nodes[0].write("file", &bytes);
    nodes[1].wait_for_file("file");
    // The cache keeps one descriptor of an open file.
    let _open = fs::File::open(nodes[1].mounted("file")).unwrap();
    let get = || start(nodes[1].cli_command(&["get", "file"]).args(["-o", "-"]));
    for _ in 0..3 {
        assert!(get().finish(HANG_LIMIT).stdout == bytes);
    }
    let at_once: Vec<Running> = (0..4).map(|_| get()).collect();
    for get in at_once {
        assert!(get.finish(HANG_LIMIT).stdout == bytes);
    }
}

#[apply(promise)]
fn a_get_whose_only_holder_was_killed_resumes_from_the_cache() {
    let (_cluster, mut nodes, bytes) = slow_holder();
    let get = half_way(&nodes[1]);
    nodes[0].kill();
    nodes[0].launch();
    // The command succeeds if the holder is back within the deadline.
    let _either = get.finish(HANG_LIMIT);
    nodes[1].wait_for_file("file");
    get_again(&nodes[1], &bytes);
    let received = nodes[1].traffic("received_bytes");
    assert!(received <= SIZE * 5 / 4, "{received} bytes came of {SIZE}");
}

/// A restarted holder gets requests before it knows its folders again.
#[apply(promise)]
fn a_reader_continues_when_the_only_holder_restarts() {
    let (_cluster, mut nodes, bytes) = slow_holder();
    nodes[0].cli(&["limits", "--up", "none"]).expect_ok();
    nodes[1].cli(&["limits", "--down", "16MiB/s"]).expect_ok();
    let path = nodes[1].mounted("file");
    let reading = thread::spawn(move || fs::read(path));
    for restart in 1..=3 {
        eventually("more of it is here", HANG_LIMIT, || {
            nodes[1].traffic("received_bytes") >= restart * SIZE / 8
        });
        nodes[0].stop();
        nodes[0].launch();
    }
    assert!(reading.join().unwrap().expect("a reader waits") == bytes);
}

/// Restarts the reader's daemon while the holder is stopped, so that the daemon knows no holder.
fn restart_away_from_the_holder(nodes: &mut [Node]) {
    let (holder, reader) = nodes.split_at_mut(1);
    let _held = holder[0].hold();
    reader[0].stop();
    reader[0].launch();
    // A new request is refused at once.
    let unknown = run(&mut get(&reader[0]));
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        unknown.stderr.contains("no live node"),
        "{}",
        unknown.stderr
    );
    let alone = reader[0].cli(&["wait", "--peers", "1", "--timeout", "1s"]);
    assert_eq!(alone.status.code(), Some(1));
}

#[apply(promise)]
fn a_get_during_a_restart_waits_for_the_next_daemon_to_meet_the_holder() {
    let (_cluster, mut nodes, bytes) = slow_holder();
    let get = half_way(&nodes[1]);
    restart_away_from_the_holder(&mut nodes);
    get.finish(HANG_LIMIT).expect_ok();
    assert!(fs::read(nodes[1].home.join("copy")).unwrap() == bytes);
}

#[apply(promise)]
fn a_prefetch_during_a_restart_fetches_files_the_next_daemon_has_yet_to_learn_of() {
    let (_cluster, mut nodes, _bytes) = slow_holder();
    let prefetch = start(&mut nodes[1].cli_command(&["prefetch", "/"]));
    eventually("half of it is here", HANG_LIMIT, || {
        nodes[1].traffic("received_bytes") >= SIZE / 2
    });
    restart_away_from_the_holder(&mut nodes);
    let said = prefetch.finish(HANG_LIMIT).expect_ok();
    assert!(said.starts_with("1 file,"), "{said}");
}

/// Returns a holder that sends slowly, and a reader whose cache has room for one of its files at a
/// time.
fn small_cache() -> (Cluster, Node, Node) {
    let mut cluster = Cluster::new();
    let holder = cluster.start("holder");
    let reader = cluster.start_with(NodeOptions {
        more: vec!["--cache-size".to_owned(), "64MiB".to_owned()],
        ..NodeOptions::new("reader")
    });
    for (seed, name) in [(9, "file"), (10, "other")] {
        holder.write(name, &noise(seed, SIZE));
        reader.wait_for_file(name);
    }
    holder.cli(&["limits", "--up", "12MiB/s"]).expect_ok();
    (cluster, holder, reader)
}

#[apply(promise)]
fn a_prefetch_of_a_file_in_transfer_needs_no_additional_room() {
    let (_cluster, _holder, reader) = small_cache();
    let half_way = || {
        let before = reader.traffic("received_bytes");
        let prefetch = start(&mut reader.cli_command(&["prefetch", "file"]));
        eventually("half of it is here", HANG_LIMIT, || {
            reader.traffic("received_bytes") - before >= SIZE / 2
        });
        prefetch
    };
    let first = half_way();
    reader.cli(&["prefetch", "file"]).expect_ok();
    first.finish(HANG_LIMIT).expect_ok();
    reader.cli(&["cache", "clear"]).expect_ok();
    // An aborted command leaves no file open either.
    let given_up = half_way();
    given_up.signal(libc::SIGINT);
    assert_ne!(given_up.finish(HANG_LIMIT).status.code(), Some(0));
    reader.cli(&["prefetch", "file"]).expect_ok();
    // A file that no program has open can be evicted.
    reader.cli(&["prefetch", "other"]).expect_ok();
}

#[apply(promise)]
fn a_closed_file_is_not_listed_as_open() {
    let (_cluster, holder, reader) = small_cache();
    holder.cli(&["limits", "--up", "none"]).expect_ok();
    let mut held = fs::File::open(reader.mounted("file")).unwrap();
    let mut first = [0; 10];
    std::io::Read::read_exact(&mut held, &mut first).unwrap();
    let open = || -> Vec<bool> {
        let listed = reader.cli(&["cache", "ls", "--json"]).expect_json();
        let entries = listed["entries"].as_array().unwrap().iter();
        entries.map(|it| it["open"].as_bool().unwrap()).collect()
    };
    assert_eq!(open(), [true]);
    drop(held);
    eventually("it is closed", HANG_LIMIT, || open() == [false]);
}

#[apply(promise)]
fn fetched_bytes_show_in_the_blocks_after_close() {
    use std::os::unix::fs::MetadataExt;
    let (_cluster, holder, reader) = small_cache();
    holder.cli(&["limits", "--up", "none"]).expect_ok();
    let path = reader.mounted("file");
    let blocks = || fs::metadata(&path).unwrap().blocks();
    assert_eq!(blocks(), 1, "and the kernel knows it from here on");
    let mut held = fs::File::open(&path).unwrap();
    std::io::Read::read_exact(&mut held, &mut [0; 10]).unwrap();
    drop(held);
    eventually("the blocks show it", HANG_LIMIT, || blocks() > 1);
}
