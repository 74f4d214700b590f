//! Commands against real daemons: paths, settings, events and metrics in their output. Each file of
//! the folder tests one subject.

mod closed_homes;
mod doctor;
mod hidden_paths;
mod missing_shares;
mod modes;
mod one_folder;
mod places;
mod rights;
mod shared_again;
mod terminals;
mod transfers;
mod widths;
mod writing;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use macro_rules_attribute::apply;
use serde_json::Value;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount];

/// Start of the condition while a refused configuration stands.
const REFUSED: &str = "the configuration was read again and refused";

#[apply(promise)]
fn a_path_from_within_the_mount_means_the_same_in_every_command() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("docs/deep/a b.txt", b"text");
    node.wait_for_file("docs/deep/a b.txt");
    let within = node.mounted("docs");
    let absolute = node.mounted("docs/deep/a b.txt");
    let from_within = |arguments: &[&str]| {
        let mut command = node.cli_command(arguments);
        run(command.current_dir(&within))
    };
    let forms = [
        "deep/a b.txt",
        "./deep/../deep/a b.txt",
        "../docs/deep/a b.txt",
        absolute.to_str().unwrap(),
    ];
    let out = node.home.join("out");
    let out_text = out.to_str().unwrap();
    for form in forms {
        from_within(&["get", form, "-o", out_text]).expect_ok();
        assert_eq!(fs::read(&out).unwrap(), b"text");
        for command in ["why", "prefetch", "pin", "unpin"] {
            let said = from_within(&[command, form]);
            assert!(said.status.success(), "{command} {form}: {}", said.stderr);
        }
        let listed = from_within(&["ls", form, "--json"]).expect_json();
        assert_eq!(listed["entries"][0]["path"], "docs/deep/a b.txt");
        from_within(&["wait", "--file", form]).expect_ok();
    }
    assert_eq!(from_within(&["ls"]).expect_ok(), "deep\n");
    assert_eq!(from_within(&["ls", ".."]).expect_ok(), "docs\n");
    let refused = from_within(&["ls", "../../etc"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("leads out of the shared folder"));
    let directory = from_within(&["get", "deep"]);
    assert_eq!(directory.status.code(), Some(1));
    assert!(
        directory.stderr.contains("is a directory"),
        "{}",
        directory.stderr
    );
}

#[apply(promise)]
fn a_file_below_the_hidden_directory_is_fetched_and_explained_by_its_path_there() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("docs/a", b"text");
    node.wait_for_file("docs/a");
    let listed = node.cli(&["ls", "docs/a", "--json"]).expect_json();
    let hash = listed["entries"][0]["hash"].as_str().unwrap().to_owned();
    let by_hash = format!(".p2pfs/by-hash/{hash}");
    let absolute = node.mounted(&by_hash);
    for form in [
        &*by_hash,
        absolute.to_str().unwrap(),
        "/.p2pfs/peers/one/docs/a",
    ] {
        let got = node.cli(&["get", form, "-o", "-"]).expect_ok();
        assert_eq!(got, "text", "{form}");
        let why = node.cli(&["why", form, "--json"]).expect_json();
        assert_eq!(why["path"], "docs/a", "{form}");
    }
    for (form, told) in [
        (".p2pfs/peers/one", "is a directory"),
        (".p2pfs/status.json", "p2pfs status --json"),
        (".p2pfs/peers/nobody/a", "below .p2pfs are peers/NAME/PATH"),
        (".p2pfs/by-hash/00", "below .p2pfs are peers/NAME/PATH"),
    ] {
        let refused = node.cli(&["get", form, "-o", "-"]);
        assert_eq!(refused.status.code(), Some(1), "{form}");
        assert!(refused.stderr.contains(told), "{form}: {}", refused.stderr);
    }
}

#[apply(promise)]
fn a_node_is_pinged_by_name_or_address_and_a_stranger_is_not() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["one", "two"]);
    let address = nodes[1].address.to_string();
    for name in ["two", &address] {
        let pong = nodes[0].cli(&["ping", name, "--json"]).expect_json();
        assert_eq!(
            (&pong["name"], &pong["address"]),
            (&"two".into(), &(*address).into())
        );
        assert!(pong["tcp_ms"].as_f64().unwrap() > 0.0, "{pong}");
    }
    let text = nodes[0].cli(&["ping", "two"]).expect_ok();
    assert!(
        text.starts_with("two (") && text.contains("ms over TCP"),
        "{text}"
    );
    let unknown = nodes[0].cli(&["ping", "three"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(unknown.stderr.contains("p2pfs peers"), "{}", unknown.stderr);
    nodes[1].kill();
    let gone = nodes[0].cli(&["ping", "two"]);
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(gone.stderr.lines().count(), 1, "{}", gone.stderr);
}

#[apply(promise)]
fn a_daemon_started_while_a_killed_one_still_ends_takes_its_place() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    for _ in 0..5 {
        let before = node.pid();
        node.signal(libc::SIGKILL);
        node.launch();
        assert_ne!(node.pid(), before);
    }
    let second = run(&mut node.daemon_command());
    assert_eq!(second.status.code(), Some(1));
    assert!(
        second.stderr.contains("another daemon answers"),
        "{}",
        second.stderr
    );
}

#[apply(promise)]
fn each_effective_setting_is_shown_with_its_origin_even_after_a_reload() {
    let mut cluster = Cluster::new();
    let node = cluster.start_with(NodeOptions {
        config: "[cache]\nsize = '1G'\n[membership]\naway_grace = '9s'\n".to_owned(),
        ..NodeOptions::new("one")
    });
    let setting = |key: &str| {
        let shown = node.cli(&["config", "show", "--json"]).expect_json();
        let all = shown["settings"].as_array().unwrap().clone();
        all.into_iter()
            .find(|setting| setting["key"] == key)
            .unwrap()
    };
    let size = setting("cache.size");
    assert_eq!(size["value"], "\"1GiB\"");
    assert!(
        size["origin"]
            .as_str()
            .unwrap()
            .ends_with("p2pfs.toml line 2"),
        "{size}"
    );
    assert_eq!(setting("name")["origin"], "set by --name");
    assert_eq!(setting("cache.floor")["origin"], "the default");
    let changed = "[cache]\nsize = '2G'\n[membership]\naway_grace = '8s'\n";
    fs::write(node.home.join("p2pfs.toml"), changed).unwrap();
    node.signal(libc::SIGHUP);
    eventually("the reload is shown", HANG_LIMIT, || {
        setting("cache.size")["value"] == "\"2GiB\""
    });
    let shows_what_runs = || {
        let grace = setting("membership.away_grace");
        assert_eq!(
            (&grace["value"], &grace["after_restart"]),
            (&"\"9s\"".into(), &"\"8s\"".into())
        );
    };
    shows_what_runs();
    let text = node.cli(&["config", "show"]).expect_ok();
    assert!(text.contains("after a restart \"8s\""), "{text}");
    let reload = |size: &str, grace: &str| {
        let changed = format!("[cache]\nsize = '{size}'\n[membership]\naway_grace = '{grace}'\n");
        fs::write(node.home.join("p2pfs.toml"), changed).unwrap();
        node.signal(libc::SIGHUP);
        eventually("the next reload is shown", HANG_LIMIT, || {
            setting("cache.size")["value"] == format!("\"{size}iB\"")
        });
    };
    reload("3G", "8s");
    shows_what_runs();
    reload("4G", "9s");
    let grace = setting("membership.away_grace");
    assert_eq!(grace["value"], "\"9s\"");
    assert!(grace["after_restart"].is_null(), "{grace}");
}

#[apply(promise)]
fn a_refused_reload_is_reported_in_the_status_until_one_succeeds() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let reload = |config: &str| {
        fs::write(node.home.join("p2pfs.toml"), config).unwrap();
        node.signal(libc::SIGHUP);
    };
    let told = || {
        let lines = node.cli(&["status"]).expect_ok();
        lines.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    reload("[cache]\nsize = 'much'\nflor = '1G'\n");
    eventually("the refusal is told", HANG_LIMIT, || {
        let told = told();
        let lines = ["p2pfs.toml:2:8: cache.size", "p2pfs.toml:3:1: cache.flor"];
        told.contains(REFUSED) && lines.iter().all(|line| told.contains(line))
    });
    let found = node.cli(&["doctor"]).text();
    assert!(found.contains("cache.flor"), "{found}");
    // The file that every user can read has fewer details.
    let public = || fs::read_to_string(node.mounted(".p2pfs/status.json")).unwrap();
    eventually("all are told", HANG_LIMIT, || public().contains(REFUSED));
    assert!(!public().contains("cache.flor"), "{}", public());
    reload("[cache]\nsize = '1G'\n");
    eventually("it is settled", HANG_LIMIT, || !told().contains(REFUSED));
}

#[apply(promise)]
fn events_name_files() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("docs/paper.txt", &noise(1, 200_000));
    nodes[1].wait_for_file("docs/paper.txt");
    nodes[1].cli(&["prefetch", "docs"]).expect_ok();
    let told = || nodes[1].cli(&["events"]).expect_ok();
    eventually("the fetch is told", HANG_LIMIT, || {
        told().contains("fetched docs/paper.txt")
    });
    let json = nodes[1].cli(&["events", "--json"]).expect_ok();
    let done = json
        .lines()
        .find(|line| line.contains("\"fetch-done\""))
        .unwrap();
    let done: Value = serde_json::from_str(done).unwrap();
    assert_eq!(done["name"]["path"], "docs/paper.txt");
}

#[apply(promise)]
fn a_past_event_keeps_its_files_former_name() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("draft.txt", &noise(1, 200_000));
    nodes[1].wait_for_file("draft.txt");
    nodes[1].cli(&["prefetch", "draft.txt"]).expect_ok();
    let told = || nodes[1].cli(&["events"]).expect_ok();
    eventually("the fetch is told", HANG_LIMIT, || {
        told().contains("fetched draft.txt")
    });
    let share = &nodes[0].share;
    fs::rename(share.join("draft.txt"), share.join("final.txt")).unwrap();
    nodes[1].wait_for_file("final.txt");
    let told = told();
    assert!(told.contains("fetched draft.txt"), "{told}");
    assert!(!told.contains("fetched final.txt"), "{told}");
}

#[apply(promise)]
fn a_configuration_is_checked_with_the_files_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    let config = folder.path().join("p2pfs.toml");
    let check = |digits: &str, mode: u32| {
        fs::write(&secret, digits).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(mode)).unwrap();
        let text = format!(
            "secret_file = '{}'\n[[share]]\ndir = '{}'\n",
            secret.display(),
            folder.path().join("gone").display()
        );
        fs::write(&config, text).unwrap();
        run(program()
            .args(["daemon", "--check-config", "--config"])
            .arg(&config))
    };
    let good = format!("{}\n", "5a".repeat(32));
    let right = check(&good, 0o600);
    assert!(right.status.success(), "{}", right.stderr);
    assert!(
        right.text().contains("# warning: share.dir: "),
        "{}",
        right.text()
    );
    for (digits, mode) in [(&*good, 0o644), ("5a\n", 0o600)] {
        let wrong = check(digits, mode);
        assert_eq!(wrong.status.code(), Some(78));
        assert!(
            wrong.stderr.starts_with(&format!(
                "p2pfs: secret_file, set in {} line 1: ",
                config.display()
            )),
            "{}",
            wrong.stderr
        );
    }
    fs::remove_file(&secret).unwrap();
    let gone = run(program()
        .args(["daemon", "--check-config", "--config"])
        .arg(&config));
    assert_eq!(gone.status.code(), Some(78));
    assert!(gone.stderr.contains(Path::new("secret").to_str().unwrap()));
}

#[apply(promise)]
fn a_permanent_start_failure_exits_with_78_and_a_passing_one_with_1() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let config = "listen = '127.0.0.1:0'\n[mount]\nenabled = false\n";
    fs::write(at("p2pfs.toml"), config).unwrap();
    let start = |cache: &Path, more: &[&str]| {
        let mut command = program();
        command.args(["daemon", "--config"]).arg(at("p2pfs.toml"));
        for (flag, place) in [("--state", at("state")), ("--socket", at("sock"))] {
            command.arg(flag).arg(place);
        }
        run(command.arg("--cache").arg(cache).args(more))
    };
    let refused = |more: &[&str]| start(&at("cache"), more);
    let other = refused(&["--listen", "192.0.2.1:1378"]);
    assert_eq!(other.status.code(), Some(1), "{}", other.stderr);
    fs::write(at("file"), b"").unwrap();
    for (name, damage) in [
        ("node.key", &b"cut"[..]),
        ("members", b"garbage"),
        ("secrets", b"garbage"),
    ] {
        let _none = fs::remove_dir_all(at("state"));
        // The first start creates all three files and fails at the cache.
        let ended = start(&at("file").join("cache"), &[]);
        assert_eq!(ended.status.code(), Some(78), "{}", ended.stderr);
        fs::write(at("state").join(name), damage).unwrap();
        let ended = refused(&[]);
        assert_eq!(ended.status.code(), Some(78), "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains("put back a copy"), "{}", ended.stderr);
    }
    fs::remove_dir_all(at("state")).unwrap();
    fs::write(at("secret"), "abc\n").unwrap();
    fs::set_permissions(at("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let secret = at("secret");
    let ended = refused(&["--secret-file", secret.to_str().unwrap()]);
    assert_eq!(ended.status.code(), Some(78), "{}", ended.stderr);
}

#[apply(promise)]
fn a_directory_that_other_users_can_change_is_refused_with_the_command_that_mends_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("p2pfs.toml"), "[mount]\nenabled = false\n").unwrap();
    let start = || {
        let mut command = program();
        command.args(["daemon", "--config"]).arg(at("p2pfs.toml"));
        for (flag, place) in [("--state", "state"), ("--cache", "cache/of/p2pfs")] {
            command.arg(flag).arg(at(place));
        }
        command.arg("--socket").arg(at("run/p2pfs.sock"));
        // An address that this machine does not have, so that each start ends.
        run(command.args(["--listen", "192.0.2.1:1378"]))
    };
    let set = |name: &str, mode| {
        fs::create_dir_all(at(name)).unwrap();
        set_mode(&at(name), mode);
    };
    let is_refused = |what: &str, dir: &str, mode| {
        set(dir, mode);
        let ended = start();
        assert_eq!(ended.status.code(), Some(78), "{dir}: {}", ended.stderr);
        let remedy = format!("run: chmod go-w {}\n", at(dir).display());
        let said = &ended.stderr;
        assert!(said.contains(what) && said.ends_with(&remedy), "{said}");
        set(dir, 0o755);
        let ended = start();
        assert_eq!(ended.status.code(), Some(1), "{dir}: {}", ended.stderr);
    };
    is_refused("the state directory", "state", 0o777);
    is_refused("the cache", "cache/of/p2pfs", 0o1777);
    // Other users could put a link there in place of the cache.
    is_refused("the cache", "cache/of", 0o777);
    set("cache/of", 0o1777);
    assert_eq!(start().status.code(), Some(1));
    fs::rename(at("cache/of"), at("cache/moved")).unwrap();
    set("cache", 0o777);
    std::os::unix::fs::symlink("moved", at("cache/of")).unwrap();
    let ended = start();
    assert_eq!(ended.status.code(), Some(78), "{}", ended.stderr);
    let is_told = ended
        .stderr
        .contains("is a link to \"moved\", and every user may write in");
    assert!(is_told, "{}", ended.stderr);
    set("cache", 0o755);
    assert_eq!(
        start().status.code(),
        Some(1),
        "it is a link of the daemon's user"
    );
    is_refused("the directory of the control socket", "run", 0o777);
    // Other users cannot replace a socket in a directory like /tmp.
    set("run", 0o1777);
    assert_eq!(start().status.code(), Some(1));
    // The daemon trusts a directory of another user as little.
    std::os::unix::fs::chown(at("state"), Some(64_001), None).unwrap();
    let ended = start();
    assert_eq!(ended.status.code(), Some(78), "{}", ended.stderr);
    let is_told = ended.stderr.contains("user 64001 owns");
    assert!(is_told, "{}", ended.stderr);
}

#[apply(promise)]
fn commands_tell_that_a_start_with_status_78_is_not_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("p2pfs.toml"), "[mount]\nenabled = false\n").unwrap();
    fs::create_dir(at("state")).unwrap();
    set_mode(&at("state"), 0o777);
    let mut start = program();
    start.args(["daemon", "--config"]).arg(at("p2pfs.toml"));
    for (flag, place) in [
        ("--state", "state"),
        ("--cache", "cache"),
        ("--socket", "sock"),
    ] {
        start.arg(flag).arg(at(place));
    }
    // A service manager has this variable in its services.
    let ended = run(start.env("NOTIFY_SOCKET", at("manager")));
    assert_eq!(ended.status.code(), Some(78), "{}", ended.stderr);
    for command in [&["status"][..], &["doctor"], &["wait", "--timeout", "1s"]] {
        let asked = run(program().args(command).arg("--socket").arg(at("sock")));
        assert_eq!(asked.status.code(), Some(1), "{command:?}");
        let said = format!("{} {}", asked.text(), asked.stderr);
        let words: Vec<_> = said.split_whitespace().collect();
        let said = words.join(" ");
        for part in [
            "the daemon does not start: ",
            "run: chmod go-w ",
            "not tried again until it is mended); mend it, then start it as before",
        ] {
            assert!(said.contains(part), "{command:?}: {said}");
        }
        assert!(!said.contains("tried again within"), "{command:?}: {said}");
    }
}

#[apply(promise)]
fn commands_tell_the_newest_refusal_of_the_configuration_and_no_earlier_failed_start() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let socket = at("sock");
    let fails = |code: i32, config: &str| {
        let config = format!("socket = '{}'\n{config}\n", socket.display());
        fs::write(at("p2pfs.toml"), config).unwrap();
        // The packaged service has this umask.
        let masked = ["sh", "-c", "umask 077; exec \"$@\"", "sh"].map(str::to_owned);
        let mut start = program_through(&masked);
        start.args(["daemon", "--config"]).arg(at("p2pfs.toml"));
        for place in ["state", "cache"] {
            start.arg(format!("--{place}")).arg(at(place));
        }
        // A service manager has this variable in its services.
        let ended = run(start.env("NOTIFY_SOCKET", at("manager")));
        assert_eq!(ended.status.code(), Some(code), "{}", ended.stderr);
        let record = fs::metadata(at("sock.failed")).unwrap();
        let mode = record.permissions().mode() & 0o777;
        assert_eq!(mode, 0o644, "commands of all users read it");
        let asked = run(program().args(["status", "--socket"]).arg(&socket));
        let words: Vec<_> = asked.stderr.split_whitespace().collect();
        words.join(" ")
    };
    // An address that this machine does not have.
    let foreign = "listen = '192.0.2.1:1378'\nmount.enabled = false";
    fails(1, foreign);
    let said = fails(78, "listen = 'nowhere'\ncash = 1");
    for part in [
        "p2pfs.toml:2:10: listen: ",
        "cash: unknown field",
        "; mend it, then start",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("192.0.2.1"), "{said}");
    // A check of the configuration is not a start.
    let before = fs::read(at("sock.failed")).unwrap();
    let mut check = program();
    check.args(["daemon", "--check-config", "--config"]);
    run(check
        .arg(at("p2pfs.toml"))
        .env("NOTIFY_SOCKET", at("manager")));
    assert_eq!(fs::read(at("sock.failed")).unwrap(), before);
    // The next start fails for its own reason.
    fails(1, foreign);
    let record = fs::read_to_string(at("sock.failed")).unwrap();
    assert!(
        record.contains("192.0.2.1") && !record.contains("nowhere"),
        "{record}"
    );
}

/// Requests the metrics over `stream` and returns the reply.
fn reading(mut stream: impl Read + std::io::Write) -> String {
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    body.to_owned()
}

#[apply(promise)]
fn metrics_are_readable_when_enabled_and_name_no_file() {
    let mut cluster = Cluster::new();
    let author = cluster.start("author");
    let socket = cluster.folder.path().join("metrics.sock");
    let reader = cluster.start_with(NodeOptions {
        config: format!("[metrics]\nlisten = '{}'\n", socket.display()),
        ..NodeOptions::new("reader")
    });
    author.write("a-name", &noise(1, 1 << 20));
    reader.wait_for_file("a-name");
    fs::read(reader.mounted("a-name")).unwrap();
    let read = || reading(std::os::unix::net::UnixStream::connect(&socket).unwrap());
    let has = |line: &str| read().lines().any(|it| it == line);
    eventually("what was received is counted", HANG_LIMIT, || {
        has("p2pfs_received_bytes_total 1048576")
    });
    assert!(has("p2pfs_mount_up 1") && has("p2pfs_peers{state=\"alive\"} 1"));
    let text = read();
    assert!(
        text.ends_with("# EOF\n") && !text.contains("a-name"),
        "{text}"
    );
    assert!(
        text.contains("p2pfs_peer_round_trip_seconds{peer=\"author\"}"),
        "{text}"
    );
    // The dashboard queries only metrics that exist.
    let dashboard = include_str!("../../packaging/grafana/p2pfs.json");
    let is_letter = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    let asked = dashboard.split(|c: char| !is_letter(c));
    let asked: Vec<&str> = asked.filter(|word| word.starts_with("p2pfs_")).collect();
    assert!(asked.len() > 15);
    for name in asked {
        assert!(text.contains(&format!("\n{name}")), "{name} is no metric");
    }
    let config = author.cli(&["config", "show"]).expect_ok();
    assert!(config.contains("metrics.listen = not set"), "{config}");
}

#[apply(promise)]
fn a_file_not_yet_hashed_is_reported_as_being_read() {
    use std::io::Write;

    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("docs/old", b"1");
    node.wait_for_file("docs/old");
    // While a program writes the file, the node does not hash it.
    let mut new = fs::File::create(node.share.join("docs/new")).unwrap();
    set_mode(&node.share.join("docs/new"), 0o644);
    let (enough, told) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        while told.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            new.write_all(&noise(1, 1000)).unwrap();
            look_again();
        }
    });
    let listed = || node.cli(&["ls", "docs", "--json"]).expect_json();
    eventually("it is known of", HANG_LIMIT, || {
        listed()["being_read"][0]["path"] == "docs/new"
    });
    assert_eq!(node.cli(&["ls", "docs"]).expect_ok(), "old\n");
    let long = node.cli(&["ls", "-l", "docs"]).expect_ok();
    let line = long.lines().find(|line| line.ends_with("new")).unwrap();
    assert!(line.contains("being read"), "{long}");
    let why = node.cli(&["why", "docs/new"]).expect_ok();
    assert!(
        why.contains("not listed") && why.contains("being read"),
        "{why}"
    );
    for arguments in [&["ls", "docs/new"][..], &["get", "docs/new"]] {
        let refused = node.cli(arguments);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            refused.stderr.contains("is being read"),
            "{}",
            refused.stderr
        );
    }
    drop(enough);
    writer.join().unwrap();
    node.wait_for_file("docs/new");
    assert_eq!(listed()["being_read"], serde_json::json!([]));
}
