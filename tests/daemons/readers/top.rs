//! `p2pfs top`: which program reads which file, the origin of the bytes, and the drawing.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::{fs, io};

use macro_rules_attribute::apply;
use serde_json::Value;

use super::{MIB, NEEDS, SECOND, file_of, terminal, world};
use crate::support::content::noise;
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
#[takes("cat")]
fn top_names_a_reader_with_its_file_while_it_waits() {
    let world = world();
    let name = "wait\u{1b}for-me.bin";
    let bytes = noise(1, MIB);
    let path = world.share(name, &bytes);
    let program = world.program("patient-reader");
    let held = world.author.hold();
    let read = || start(Command::new(&program).arg(&path));
    let (mut running, mut waiting) = (read(), None);
    eventually("the reader is seen to wait", HANG_LIMIT, || {
        // The short deadline may pass before `top` runs.
        if !running.is_running() {
            running = read();
        }
        let pid = running.pid();
        let reader = world
            .reader_named("patient-reader")
            .filter(|it| it["pid"] == pid);
        waiting = reader.filter(|it| it["waiting"]["waiting_for"] == "peers");
        waiting.is_some()
    });
    let reader = waiting.unwrap();
    assert_eq!(reader["pid"], running.pid());
    assert_eq!(reader["uid"], rustix::process::getuid().as_raw());
    let file = file_of(&reader, name);
    assert_eq!(
        (&file["open"], &file["by_kernel"]),
        (&1.into(), &false.into())
    );
    assert!(
        file["waiting"]["waiting_reads"].as_u64().unwrap() >= 1,
        "{file}"
    );
    let top = world.top();
    let transfers = top["transfers"].as_array().unwrap();
    let transfer = transfers.iter().find(|it| it["path"] == name).unwrap();
    assert_eq!(transfer["size_bytes"], MIB as u64);
    let text = world.reader.cli(&["top", "--once"]).expect_ok();
    assert!(text.contains("patient-reader"), "{text}");
    assert!(text.contains("wait\\u{1b}for-me.bin"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    drop(held);
    // The short deadline may have passed meanwhile. Another promise tests that.
    running.finish(HANG_LIMIT);
}

#[apply(promise)]
#[takes("cat")]
fn top_shows_what_came_from_the_cache_and_from_others() {
    let world = world();
    let bytes = noise(2, 3 * MIB);
    let path = world.share("origin.bin", &bytes);
    let program = world.program("cold-reader");
    let read = run(Command::new(&program).arg(&path));
    assert!(read.stdout == bytes);
    // The close and the last cached bytes may follow the end of the program.
    eventually("all is cached, and closed", HANG_LIMIT, || {
        let reader = world.reader_named("cold-reader").unwrap();
        file_of(&reader, "origin.bin")["open"] == 0
            && fs::metadata(&path).unwrap().blocks() * 512 >= bytes.len() as u64
    });
    let cold = world.reader_named("cold-reader").unwrap();
    assert_eq!(cold["from_peers_bytes"], bytes.len(), "{cold}");
    assert_eq!(cold["from_cache_bytes"], 0, "{cold}");
    let file = file_of(&cold, "origin.bin");
    assert_eq!(file["open"], 0, "closed, and still told of: {file}");
    // Whether the kernel or the daemon serves the read, no byte is transferred again.
    let warm = run(Command::new(world.program("warm-reader")).arg(&path));
    assert!(warm.stdout == bytes);
    let warm = world.reader_named("warm-reader").unwrap();
    assert_eq!(warm["from_peers_bytes"], 0, "{warm}");
    let status = world.reader.cli(&["status", "--json"]).expect_json();
    let passthrough = &status["mount"]["activity"]["passthrough"];
    assert_eq!(&file_of(&warm, "origin.bin")["by_kernel"], passthrough);
}

/// Returns a number of the node itself and that of its only peer.
fn of_node_and_peer(top: &Value, name: &str) -> [u64; 2] {
    [&top["traffic"], &top["peers"][0]].map(|of| of[name].as_u64().unwrap())
}

#[apply(promise)]
#[takes("cat")]
fn top_has_one_rate_for_one_transfer_and_its_holder_counts_the_same_bytes() {
    let world = world();
    let program = world.program("sole-reader");
    let top_of_author = || world.author.cli(&["top", "--once", "--json"]).expect_json();
    let rates = |top: &Value| of_node_and_peer(top, "receive_bytes_per_s");
    let received = |top: &Value| of_node_and_peer(top, "received_bytes");
    let sent = || of_node_and_peer(&top_of_author(), "sent_bytes");
    let size = 3 * MIB as u64;
    let grown = |before: [u64; 2]| before.map(|bytes| bytes + size);
    let mut tries = 0;
    eventually("top shows the transfer", HANG_LIMIT, || {
        // Other tests have other transfers, with other rates.
        eventually("top shows no bytes of others", HANG_LIMIT, || {
            rates(&world.top()) == [0, 0]
        });
        tries += 1;
        let name = format!("sole-{tries}.bin");
        let bytes = noise(100 + tries, 3 * MIB);
        let path = world.share(&name, &bytes);
        let (received_before, sent_before) = (received(&world.top()), sent());
        assert!(run(Command::new(&program).arg(&path)).stdout == bytes);
        let top = world.top();
        assert_eq!(received(&top), grown(received_before), "{top}");
        eventually("the holder has counted the bytes", HANG_LIMIT, || {
            sent() == grown(sent_before)
        });
        let shown = |list: &str, has: &dyn Fn(&Value) -> bool| {
            let all = top[list].as_array().unwrap().iter();
            all.clone().find(|it| has(it)).cloned()
        };
        // If this took longer than the seconds of a rate, the next try may be faster.
        let Some(transfer) = shown("transfers", &|it| it["path"] == *name) else {
            return false;
        };
        let reads = |it: &Value| it["files"].to_string().contains(&name);
        let reader = shown("readers", &reads).unwrap();
        let rate = transfer["receive_bytes_per_s"].as_u64().unwrap();
        assert!(rate > 0, "{top}");
        assert_eq!(rates(&top), [rate, rate], "{top}");
        assert_eq!(reader["read_bytes_per_s"], rate, "{top}");
        true
    });
}

#[apply(promise)]
fn top_prints_a_line_of_json_for_each_sample() {
    let world = world();
    let mut command = world
        .reader
        .cli_command(&["top", "--json", "--interval", "50ms"]);
    let (read, write) = io::pipe().unwrap();
    let mut child = command.stdout(write).spawn().unwrap();
    drop(command);
    let lines = io::BufRead::lines(io::BufReader::new(read)).take(3);
    for line in lines {
        let look: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(look["name"], "reader");
        assert_eq!(look["peers"][0]["name"], "author");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[apply(promise)]
fn the_live_view_draws_ends_and_restores_the_terminal() {
    let world = world();
    for (how, keys, signal) in [
        ("the key q", &b"q"[..], None),
        ("Ctrl-C", b"\x03", None),
        ("SIGTERM", b"", Some(libc::SIGTERM)),
    ] {
        let mut terminal = terminal::Terminal::open(30, 100);
        let before = terminal.settings();
        let mut child = terminal.run(world.reader.cli_command(&["top"]).env("NO_COLOR", "1"));
        terminal.read_until("q: quit");
        let shown = terminal.shown();
        assert!(
            shown.contains("reader") && shown.contains("author"),
            "{shown}"
        );
        assert!(
            shown.contains("\x1b[?1049h"),
            "on a screen of its own: {shown:?}"
        );
        for number in (30..38).chain(40..48).chain(90..98) {
            let coloured = format!("\x1b[{number}m");
            assert!(!shown.contains(&coloured), "coloured: {shown:?}");
        }
        assert!(terminal.settings() != before, "it reads key by key");
        terminal.write(keys);
        if let Some(signal) = signal {
            // SAFETY: the child was not waited for yet, so the pid is still its own.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
        let mut status = None;
        eventually(how, HANG_LIMIT, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0), "{how}");
        assert_eq!(terminal.settings(), before, "{how}");
        terminal.read_until("\x1b[?1049l");
        terminal.read_until("\x1b[?25h");
    }
}

#[apply(promise)]
fn the_live_view_ends_with_its_terminal() {
    let world = world();
    let mut terminal = terminal::Terminal::open(30, 100);
    let mut command = world.reader.cli_command(&["top", "--interval", "50ms"]);
    let mut child = terminal.run(&mut command);
    terminal.read_until("q: quit");
    drop(command);
    drop(terminal);
    wait_child(&mut child, 10 * SECOND);
}
