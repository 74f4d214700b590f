//! Everyday work in a folder: view a file, copy it, move it, follow it, archive it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;

use macro_rules_attribute::apply;

use super::{NEEDS, SECOND, assert_same_trees, world};
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
#[takes("vim")]
fn vim_shows_a_file_and_explains_why_it_cannot_be_written() {
    let world = world();
    let words = world.seen("words.txt");
    let vim = |commands: &[&str], readonly: bool| {
        let mut vim = Command::new("vim");
        vim.args(["-u", "NONE", "-es"]).env("LC_ALL", "C");
        if readonly {
            vim.arg("-R");
        }
        commands.iter().for_each(|command| {
            vim.args(["-c", command]);
        });
        run(vim.arg(&words))
    };
    let shown = vim(&["%print", "qa!"], true);
    assert_eq!(shown.expect_ok().trim(), "some words\nand more");
    let out = world.out("vim-said");
    let redirect = format!("redir! > {}", out.display());
    // A user who forces the write gets the reason, and the file stays unchanged.
    vim(
        &[&redirect, "1s/some/other/", "w!", "redir END", "qa!"],
        false,
    );
    let said = fs::read_to_string(out).unwrap();
    let refused = ["E45", "E166", "E212", "E505", "E510", "readonly"];
    assert!(refused.iter().any(|word| said.contains(word)), "{said}");
    assert_eq!(fs::read(&words).unwrap(), b"some words\nand more\n");
}

/// The viewers run on a terminal, as for a person: they show the text and end on request.
#[apply(promise)]
#[takes("script", "vim", "less")]
fn terminal_vim_and_less_start_and_end() {
    let world = world();
    let words = world.seen("words.txt");
    let words = words.display();
    for line in [
        format!("vim -u NONE -R '{words}'"),
        format!("less '{words}'"),
        format!("cat '{words}' | less"),
    ] {
        let mut terminal = Command::new("script");
        terminal
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm");
        let mut terminal = terminal
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut keys = terminal.stdin.take().unwrap();
        let mut screen = terminal.stdout.take().unwrap();
        let (tell, shown) = mpsc::channel();
        let reader = thread::spawn(move || {
            use std::io::Read;
            let (mut all, mut room) = (Vec::new(), [0; 4096]);
            while let Ok(length @ 1..) = screen.read(&mut room) {
                all.extend_from_slice(&room[..length]);
                if String::from_utf8_lossy(&all).contains("and more") {
                    let _ = tell.send(());
                }
            }
        });
        let came = shown.recv_timeout(HANG_LIMIT);
        // Each program takes one of these as its quit command.
        let _ = keys.write_all(b"q\x1b:q!\r");
        drop(keys);
        eventually("the viewer goes", HANG_LIMIT, || {
            terminal.try_wait().unwrap().is_some()
        });
        reader.join().unwrap();
        assert!(came.is_ok(), "{line} shows the text");
    }
}

#[apply(promise)]
#[takes("gio")]
fn a_file_manager_copies_and_describes() {
    let world = world();
    let gio = |arguments: &[&str], paths: &[&Path]| {
        let mut gio = Command::new("gio");
        run(gio.env("LC_ALL", "C").args(arguments).args(paths))
    };
    let (seen, copy) = (world.seen("page.html"), world.out("gio-page.html"));
    gio(&["copy", "-p"], &[&seen, &copy]).expect_ok();
    let bytes = fs::read(world.source("page.html")).unwrap();
    assert_eq!(fs::read(&copy).unwrap(), bytes);
    let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
    let ago = time(&seen).duration_since(time(&copy)).unwrap_or_default();
    assert!(ago < SECOND, "it keeps the time, to its own precision");
    let info = gio(&["info"], &[&seen]).expect_ok();
    for line in ["standard::type: 1", "access::can-read: TRUE"] {
        assert!(info.contains(line), "{line} in {info}");
    }
    // A file manager greys these actions out.
    for line in ["can-write: FALSE", "can-delete: FALSE", "can-rename: FALSE"] {
        let line = format!("access::{line}");
        if rustix::process::geteuid().is_root() && !info.contains(&line) {
            eprintln!("not said to root: {line}");
        }
    }
    let filesystem = gio(&["info", "-f"], &[&world.reader.mount]).expect_ok();
    assert!(
        filesystem.contains("filesystem::readonly: TRUE"),
        "{filesystem}"
    );
    let moved = gio(&["move"], &[&seen, &world.out("gio-moved.html")]);
    assert!(!moved.status.success() && seen.exists());
    let removed = gio(&["remove"], &[&seen]);
    assert!(removed.stderr.contains("Read-only"), "{}", removed.stderr);
}

#[apply(promise)]
#[takes("sqlite3")]
fn sqlite_opens_a_database_as_on_any_read_only_disk() {
    let world = world();
    let database = world.seen("data.db");
    let ask = |name: &str, question: &str| run(Command::new("sqlite3").args([name, question]));
    let plain = database.to_str().unwrap();
    let count = "select count(*) from t;";
    assert_eq!(ask(plain, count).expect_ok(), "5000\n");
    let written = ask(plain, "insert into t(s) values ('new');");
    let refused = written.stderr.contains("readonly") || written.stderr.contains("read-only");
    assert!(!written.status.success() && refused, "{}", written.stderr);
    let dumped = ask(plain, ".dump").expect_ok();
    assert_eq!(dumped.matches("INSERT INTO").count(), 5000);
    // This database used a write-ahead log. Without the log it can be read as immutable.
    let log = world.author.home.join("log.db");
    let make = "pragma journal_mode = wal; create table t(n); insert into t values (1), (2);";
    ask(log.to_str().unwrap(), make).expect_ok();
    fs::copy(&log, world.source("log.db")).unwrap();
    set_mode(&world.source("log.db"), 0o644);
    world.reader.wait_for_file("log.db");
    let fixed = format!("file:{}?immutable=1", world.seen("log.db").display());
    assert_eq!(ask(&fixed, count).expect_ok(), "2\n");
}

#[apply(promise)]
#[takes("cp", "install")]
fn cp_with_reflink_and_install_copy_all_bytes() {
    let world = world();
    let bytes = fs::read(world.source("reflink.bin")).unwrap();
    let seen = world.seen("reflink.bin");
    for (program, arguments) in [
        ("cp", &["--reflink=auto"][..]),
        (
            "cp",
            &["--reflink=auto", "--sparse=always", "--preserve=all"],
        ),
        ("install", &["-m", "640"]),
        ("dd", &["status=none", "bs=128k"]),
    ] {
        let copy = world.out("reflink-copy");
        let mut command = Command::new(program);
        command.args(arguments);
        if program == "dd" {
            command.arg(format!("if={}", seen.display()));
            command.arg(format!("of={}", copy.display()));
        } else {
            command.arg(&seen).arg(&copy);
        }
        run(&mut command).expect_ok();
        assert!(fs::read(&copy).unwrap() == bytes, "{program} {arguments:?}");
        fs::remove_file(copy).unwrap();
    }
    let never = run(Command::new("cp")
        .arg("--reflink=always")
        .arg(&seen)
        .arg(world.out("no-reflink")));
    assert!(
        !never.status.success(),
        "there is nothing to share blocks with"
    );
}

#[apply(promise)]
#[takes("mv")]
fn mv_out_of_the_mount_copies_and_reports_what_it_could_not_remove() {
    let world = world();
    let (seen, moved) = (world.seen("moved.bin"), world.out("moved.bin"));
    let mv = run(Command::new("mv").env("LC_ALL", "C").arg(&seen).arg(&moved));
    assert_eq!(mv.status.code(), Some(1));
    assert!(mv.stderr.contains("Read-only file system"), "{}", mv.stderr);
    let bytes = fs::read(world.source("moved.bin")).unwrap();
    assert!(fs::read(&moved).unwrap() == bytes, "the copy is whole");
    assert!(seen.exists(), "and the original is where it was");
    let into = run(Command::new("mv")
        .env("LC_ALL", "C")
        .arg(&moved)
        .arg(&world.reader.mount));
    assert!(!into.status.success() && into.stderr.contains("Read-only"));
    assert!(moved.exists(), "nothing is lost on the way in");
}

/// Returns the lines of a program as they arrive.
fn lines_of(command: &mut Command) -> (Running, mpsc::Receiver<String>) {
    let (out, into) = std::io::pipe().unwrap();
    let running = start_into(command, into);
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = tell.send(line);
        }
    });
    (running, lines)
}

fn append(path: &Path, line: &str) {
    let mut file = File::options().append(true).open(path).unwrap();
    writeln!(file, "{line}").unwrap();
}

#[track_caller]
fn expect_line(lines: &mpsc::Receiver<String>, wanted: &str) {
    while let Ok(line) = lines.recv_timeout(HANG_LIMIT) {
        if line == wanted {
            return;
        }
    }
    panic!("{wanted:?} never came");
}

#[apply(promise)]
#[takes("tail")]
fn tail_follows_what_another_node_appends() {
    let world = world();
    let source = world.source("growing.log");
    // `-F` follows the name, because each version is another file.
    let mut tail = Command::new("tail");
    tail.args(["-n", "+1", "-F", "-s", "0.1"])
        .arg(world.seen("growing.log"));
    let (tail, lines) = lines_of(&mut tail);
    expect_line(&lines, "one");
    for (added, again) in [("two", &["one"][..]), ("three", &["one", "two"])] {
        append(&source, added);
        again.iter().for_each(|line| expect_line(&lines, line));
        expect_line(&lines, added);
    }
    tail.signal(libc::SIGTERM);
    tail.finish(HANG_LIMIT);
    // On the node that shares it, it is the same file.
    let mut tail = Command::new("tail");
    tail.args(["-n", "1", "-f", "-s", "0.1"]);
    let (tail, lines) = lines_of(tail.arg(world.author.mounted("growing.log")));
    expect_line(&lines, "three");
    append(&source, "four");
    expect_line(&lines, "four");
    tail.signal(libc::SIGTERM);
    tail.finish(HANG_LIMIT);
}

#[apply(promise)]
#[takes("zip", "unzip", "diff")]
fn zip_packs_a_tree_and_unzip_seeks_in_an_archive() {
    let world = world();
    let archive = world.out("tree.zip");
    let mut zip = Command::new("zip");
    zip.args(["-qry"]).arg(&archive).arg("zip");
    run(zip.current_dir(&world.reader.mount)).expect_ok();
    let out = world.out("unzipped");
    let unzip = |archive: &Path, out: &Path| {
        let mut unzip = Command::new("unzip");
        run(unzip.arg("-q").arg(archive).arg("-d").arg(out)).expect_ok();
    };
    unzip(&archive, &out);
    assert_same_trees(&world.source("zip"), &out.join("zip"));
    // An archive's directory is at its end, so programs read there first.
    let shared = world.source("shared.zip");
    fs::copy(&archive, &shared).unwrap();
    set_mode(&shared, 0o644);
    world.reader.wait_for_file("shared.zip");
    let one = Command::new("unzip")
        .arg("-p")
        .arg(world.seen("shared.zip"))
        .arg("zip/d1/f6.txt")
        .output()
        .unwrap();
    let wanted = fs::read(world.source("zip/d1/f6.txt")).unwrap();
    assert!(one.stdout == wanted, "{}", one.status);
    let again = world.out("unzipped-again");
    unzip(&world.seen("shared.zip"), &again);
    assert_same_trees(&world.source("zip"), &again.join("zip"));
}

#[apply(promise)]
#[takes("find")]
fn find_newer_compares_times_as_at_the_source() {
    let world = world();
    let found = |dir: &Path, conditions: &[&str]| -> BTreeSet<String> {
        let mut find = Command::new("find");
        find.args([".", "-type", "f"]).args(conditions);
        let text = run(find.current_dir(dir)).expect_ok();
        text.lines().map(str::to_owned).collect()
    };
    let (seen, source) = (world.seen("find"), world.source("find"));
    for conditions in [
        &["-newer", "d0/f10.txt"][..],
        &["-newer", "d4/f4.txt"],
        &["!", "-newer", "d2/f22.txt"],
        &["-newermt", "1990-01-01"],
        &["-mmin", "+600000"],
        &["-printf", "%P %s %T@\\n"],
    ] {
        assert_eq!(
            found(&seen, conditions),
            found(&source, conditions),
            "{conditions:?}"
        );
    }
}

#[apply(promise)]
#[takes("stat", "ls")]
fn stat_f_and_ls_show_the_same_in_every_order() {
    let world = world();
    let ls = |dir: &Path, arguments: &[&str]| -> Vec<String> {
        let mut ls = Command::new("ls");
        let text = run(ls.env("LC_ALL", "C").args(arguments).arg(dir)).expect_ok();
        text.lines().map(str::to_owned).collect()
    };
    let (seen, source) = (world.seen("ls/d2"), world.source("ls/d2"));
    for order in ["-1", "-1t", "-1tr", "-1S", "-1v", "-1r"] {
        assert_eq!(ls(&seen, &[order]), ls(&source, &[order]), "{order}");
    }
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert_eq!(sorted(ls(&seen, &["-U"])), ls(&seen, &["-1"]));
    assert_eq!(
        sorted(ls(&seen, &["-U", "-a", "-1"])),
        ls(&source, &["-a", "-1"])
    );
    // All of a long line except the owner and the mode.
    let long = |dir: &Path| -> Vec<String> {
        let lines = ls(dir, &["-lgo", "--time-style=full-iso"]);
        let after_mode = |line: &String| line.split_at(10).1.to_owned();
        lines.iter().skip(1).map(after_mode).collect()
    };
    assert_eq!(long(&seen), long(&source));
    let mut stat = Command::new("stat");
    let said = run(stat.args(["-f", "-c", "%T %l %s"]).arg(&world.reader.mount)).expect_ok();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert!(words[0].starts_with("fuse"), "{said}");
    assert_eq!(words[1..], ["255", "4096"]);
}
