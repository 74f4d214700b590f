//! The commands against real daemons: paths, check-ups, and who may see and do what.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use macro_rules_attribute::apply;
use p2pfs::daemon::control::{Call, Client, GetStarted, Named, Shares, Status, Top};
use serde_json::Value;

use crate::readers::terminal::Terminal;
use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, mount];

const SOON: Duration = Duration::from_secs(90);
/// A user of every machine that owns nothing.
const NOBODY: u32 = 65_534;

/// Runs a command of the program as somebody else.
fn as_nobody(node: &Node, arguments: &[&str]) -> Finished {
    let mut command = node.cli_command(arguments);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    run(&mut command)
}

/// Talks to the daemon from a thread whose user, by the kernel's word, is nobody.
fn ask_as_nobody<T: Send + 'static>(
    node: &Node,
    talk: impl FnOnce(&mut Client) -> T + Send + 'static,
) -> T {
    let socket = node.socket();
    let asking = thread::spawn(move || {
        let keep = u32::MAX;
        // SAFETY: the call takes three numbers; made directly it changes this thread alone.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, keep, NOBODY, keep) };
        assert_eq!(changed, 0);
        let mut client = Client::connect(&[socket]).unwrap();
        talk(&mut client)
    });
    asking.join().unwrap()
}

/// The checks of `doctor` whose name begins so.
fn checks<'a>(checkup: &'a Value, name: &str) -> Vec<&'a Value> {
    let all = checkup["checks"].as_array().unwrap();
    let named = |check: &&Value| check["name"].as_str().unwrap().starts_with(name);
    all.iter().filter(named).collect()
}

fn doctor(node: &Node) -> (Option<i32>, Value) {
    let finished = node.cli(&["doctor", "--json"]);
    let checkup = serde_json::from_slice(&finished.stdout);
    let checkup = checkup.unwrap_or_else(|e| panic!("{e}: {}", finished.stderr));
    (finished.status.code(), checkup)
}

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
fn a_file_below_the_hidden_directory_is_got_and_explained_by_its_path_there() {
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
fn a_state_directory_that_goes_while_p2pfs_runs_is_told_of() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let told = || node.cli(&["status", "--json"]).expect_json()["warnings"].to_string();
    assert!(!told().contains("state directory"), "{}", told());
    fs::rename(node.home.join("state"), node.home.join("moved")).unwrap();
    assert!(
        told().contains("was emptied, moved or replaced"),
        "{}",
        told()
    );
    let (code, checkup) = doctor(&node);
    assert_eq!(code, Some(1));
    assert!(
        checkup
            .to_string()
            .contains("put it back before the next restart"),
        "{checkup}"
    );
    fs::rename(node.home.join("moved"), node.home.join("state")).unwrap();
    assert!(!told().contains("state directory"), "{}", told());
}

#[apply(promise)]
fn any_user_may_look_and_only_the_owner_may_change() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    node.write("a", b"text");
    node.wait_for_file("a");
    let reading: [&[&str]; 12] = [
        &["limits"],
        &["status"],
        &["peers"],
        &["ls", "-l"],
        &["why", "a"],
        &["get", "a", "-o", "-"],
        &["wait", "--file", "a"],
        &["events"],
        &["top", "--once"],
        &["share", "ls"],
        &["config", "show"],
        &["doctor"],
    ];
    for arguments in reading {
        let finished = as_nobody(&node, arguments);
        assert!(
            finished.status.success(),
            "{arguments:?}: {}",
            finished.stderr
        );
    }
    let of_the_group: [&[&str]; 7] = [
        &["limits", "--up", "1MiB/s"],
        &["pin", "a"],
        &["unpin", "a"],
        &["prefetch", "a"],
        &["cache", "clear"],
        &["cache", "verify"],
        &["cache", "resize", "1GiB"],
    ];
    let of_the_owner: [&[&str]; 5] = [
        &["invite"],
        &["join", "p2pfs1-abc"],
        &["leave", "--yes"],
        &["share", "add", "/srv"],
        &["share", "remove", "/srv"],
    ];
    let denied = of_the_group.iter().map(|it| (it, "group p2pfs"));
    for (arguments, remedy) in denied.chain(of_the_owner.iter().map(|it| (it, "as root"))) {
        let finished = as_nobody(&node, arguments);
        assert_eq!(finished.status.code(), Some(1), "{arguments:?}");
        let said = &finished.stderr;
        assert!(
            said.contains("permission denied") && said.contains(remedy),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(node.is_running());
}

#[apply(promise)]
fn a_descriptor_of_the_file_itself_is_given_to_root_and_its_owner_alone() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("a", &noise(1, 3 << 20));
    set_mode(&nodes[0].share.join("a"), 0o666);
    nodes[1].wait_for_file("a");
    nodes[1].cli(&["prefetch", "a"]).expect_ok();
    // a share of one's own, and a complete file of the cache
    for node in &nodes {
        let given = |client: &mut Client| -> OwnedFd {
            client
                .start(&Call::Get {
                    path: Named::new("a"),
                })
                .unwrap();
            let mut first = client.next_reply().unwrap();
            let started: GetStarted = first.decode().unwrap();
            assert_eq!(started.size_bytes, 3 << 20);
            first.descriptor.take().unwrap()
        };
        let to_root = given(&mut Client::connect(&[node.socket()]).unwrap());
        assert!(fs::File::from(to_root).metadata().unwrap().is_file());
        let bytes = ask_as_nobody(node, move |client| {
            let descriptor = given(client);
            let mut pipe = fs::File::from(descriptor);
            assert!(pipe.metadata().unwrap().file_type().is_fifo());
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            bytes
        });
        assert_eq!(bytes, noise(1, 3 << 20));
    }
}

#[apply(promise)]
fn others_see_counts_of_private_files_and_of_other_users_readers_and_no_names() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    node.write("a", &noise(1, 1 << 20));
    node.write("diary", b"dear");
    set_mode(&node.share.join("diary"), 0o600);
    fs::create_dir(node.share.join("secrets")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", node.share.join("secrets/out")).unwrap();
    set_mode(&node.share.join("secrets"), 0o755);
    node.wait_for_file("a");
    eventually("what is left out is counted", SOON, || {
        let shares = node.cli(&["share", "--json"]).expect_json();
        shares["shares"][0]["left_out_files"] == 2
    });
    let _reader = fs::File::open(node.mounted("a")).unwrap();
    let read_by_others = fs::read(node.mounted("a")).unwrap();
    assert_eq!(read_by_others.len(), 1 << 20);
    let (status, shares, top): (Status, Shares, Top) = ask_as_nobody(&node, |client| {
        let status = client.call(&Call::Status {}).unwrap();
        let shares = client.call(&Call::Shares {}).unwrap();
        (status, shares, client.call(&Call::Top {}).unwrap())
    });
    for share in status.shares.iter().chain(&shares.shares) {
        assert_eq!(share.left_out_files, 2);
        assert!(share.problems.is_empty(), "{share:?}");
    }
    let told = format!("{:?}", status.warnings);
    assert!(
        !told.contains("diary") && !told.contains("secrets"),
        "{told}"
    );
    assert!(top.readers.is_empty(), "{:?}", top.readers);
    let in_the_mount = fs::read_to_string(node.mounted(".p2pfs/status.json")).unwrap();
    assert!(!in_the_mount.contains("diary") && !in_the_mount.contains("secrets"));
    let events = as_nobody(&node, &["events"]).expect_ok();
    assert!(!events.contains("secrets"), "{events}");
    // their owner is told all of it
    let owned = node.cli(&["share"]).expect_ok();
    assert!(
        owned.contains("diary") && owned.contains("secrets/out"),
        "{owned}"
    );
    assert!(node.cli(&["status"]).expect_ok().contains("secrets/out"));
    let mine: Top = Client::connect(&[node.socket()])
        .unwrap()
        .call(&Call::Top {})
        .unwrap();
    assert_eq!(mine.readers.len() as u64, top.other_readers);
    assert_eq!(mine.other_readers, 0);
    assert!(node.is_running());
}

#[apply(promise)]
fn the_remedy_for_a_private_file_can_be_pasted_whatever_the_file_is_called() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("x';touch PWNED;'", b"1");
    set_mode(&node.share.join("x';touch PWNED;'"), 0o600);
    let mut why = String::new();
    eventually("it is left out", SOON, || {
        let shares = node.cli(&["share", "--json"]).expect_json();
        why = shares["shares"][0]["problems"][0]["why"].to_string();
        shares["shares"][0]["left_out_files"] == 1
    });
    let why: String = serde_json::from_str(&why).unwrap();
    let command = why.split_once("chmod").unwrap().1;
    let command = command.strip_suffix(", or include_private = true").unwrap();
    let pasted = Command::new("sh")
        .args(["-c", &format!("chmod{command}")])
        .current_dir(&node.home)
        .status();
    assert!(pasted.unwrap().success(), "{why}");
    assert!(!node.home.join("PWNED").exists());
    node.wait_for_file("x';touch PWNED;'");
}

#[apply(promise)]
fn a_node_is_pinged_by_its_name_or_its_address_and_a_stranger_is_not() {
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
fn each_setting_in_force_is_shown_with_what_set_it_also_after_a_reload() {
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
    eventually("the reload is shown", SOON, || {
        setting("cache.size")["value"] == "\"2GiB\""
    });
    let grace = setting("membership.away_grace");
    assert_eq!(
        (&grace["value"], &grace["after_restart"]),
        (&"\"9s\"".into(), &"\"8s\"".into())
    );
    let text = node.cli(&["config", "show"]).expect_ok();
    assert!(text.contains("after a restart \"8s\""), "{text}");
}

#[apply(promise)]
fn a_healthy_cluster_passes_its_check_up() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let (code, checkup) = doctor(&nodes[1]);
    assert_eq!(code, Some(0), "{checkup:#}");
    assert_eq!(
        checks(&checkup, "peer one")[0]["found"],
        "is reached, and reaches this node"
    );
    assert_eq!(checks(&checkup, "seed ")[0]["found"], "is one");
    assert_eq!(checks(&checkup, "folder")[0]["state"], "ok");
    let text = nodes[1].cli(&["doctor"]).expect_ok();
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
}

#[apply(promise)]
fn the_doctor_tells_seeds_that_are_closed_silent_strange_and_unknown_apart() {
    let mut strangers = Cluster::new();
    strangers.change_secret(&"c3".repeat(32));
    let stranger = strangers.start("stranger");
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    // connections are taken by the kernel, and nobody says anything
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (silent.local_addr().unwrap(), silent);
    let mut cluster = Cluster::new();
    let mut node = cluster.start_with(NodeOptions {
        seeds: vec![closed, silent.0, stranger.address],
        more: vec!["--seed".into(), "no-such-host.invalid:1".into()],
        ..NodeOptions::new("one")
    });
    let (code, checkup) = doctor(&node);
    assert_eq!(code, Some(1));
    let seed = |name: &str| checks(&checkup, &format!("seed {name}"))[0].clone();
    let expected = [
        (
            closed.to_string(),
            "refuses connections",
            "start p2pfs there",
        ),
        (silent.0.to_string(), "does not answer", "firewall"),
        (
            stranger.address.to_string(),
            "another secret",
            "p2pfs invite",
        ),
        (
            "no-such-host.invalid".to_owned(),
            "does not resolve",
            "mend the name",
        ),
    ];
    for (name, found, remedy) in expected {
        let check = seed(&name);
        assert_eq!(check["state"], "failed", "{check}");
        assert!(check["found"].as_str().unwrap().contains(found), "{check}");
        assert!(
            check["remedy"].as_str().unwrap().contains(remedy),
            "{check}"
        );
    }
    // what isolates a node is in its status too, with the remedy
    let said = |text: &str| {
        node.cli(&["status", "--json"]).expect_json()["warnings"]
            .to_string()
            .contains(text)
    };
    eventually("status warns", Duration::from_secs(60), || {
        said("refuses connections")
    });
    assert!(said("start p2pfs there"));
    let log = node.stop().stderr;
    assert!(log.contains("refuses connections"), "{log}");
}

#[apply(promise)]
fn the_doctor_says_what_is_not_shared_and_what_to_do() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("private", b"1");
    set_mode(&node.share.join("private"), 0o600);
    let mut checkup = Value::Null;
    eventually("it is left out", SOON, || {
        checkup = doctor(&node).1;
        checks(&checkup, "share ")[0]["state"] == "warning"
    });
    let remedy = checks(&checkup, "share ")[0]["remedy"].to_string();
    assert!(remedy.contains("chmod o+r"), "{remedy}");
    let share = node.share.to_str().unwrap();
    let moved = node.home.join("elsewhere");
    fs::rename(share, &moved).unwrap();
    eventually("the share is gone", Duration::from_secs(90), || {
        checkup = doctor(&node).1;
        checks(&checkup, "share ")[0]["state"] == "failed"
    });
    fs::rename(&moved, share).unwrap();
}

#[apply(promise)]
fn without_a_daemon_the_doctor_says_what_keeps_one_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "short").unwrap();
    set_mode(&secret, 0o600);
    let config = folder.path().join("p2pfs.toml");
    let listen = taken.local_addr().unwrap();
    let text = format!(
        "listen = '{listen}'\nsecret_file = '{}'\n",
        secret.display()
    );
    fs::write(&config, text).unwrap();
    let run_doctor = || {
        let mut command = program();
        command.args(["doctor", "--json", "--config"]).arg(&config);
        command.arg("--socket").arg(folder.path().join("no.sock"));
        run(&mut command)
    };
    let finished = run_doctor();
    assert_eq!(finished.status.code(), Some(1));
    let checkup: Value = serde_json::from_slice(&finished.stdout).unwrap();
    for name in ["daemon", "secret", "port"] {
        assert_eq!(checks(&checkup, name)[0]["state"], "failed", "{checkup:#}");
    }
    assert_eq!(checks(&checkup, "fuse")[0]["state"], "ok");
    fs::write(&config, "nam = 'x'\n[cache]\nsize = '1'\n").unwrap();
    let checkup: Value = serde_json::from_slice(&run_doctor().stdout).unwrap();
    assert_eq!(checks(&checkup, "configuration").len(), 2, "{checkup:#}");
}

#[apply(promise)]
fn a_prefetch_that_cannot_fit_is_refused_before_anything_is_fetched() {
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
fn a_prefetch_stops_when_it_is_stopped() {
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
    eventually("it is being fetched", SOON, wanted);
    prefetch.signal(libc::SIGINT);
    prefetch.end_within(SOON);
    let is_over = || !wanted();
    eventually("nothing is fetched any more", SOON, is_over);
    author.signal(libc::SIGCONT);
}

#[apply(promise)]
fn events_speak_of_files_by_name() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("docs/paper.txt", &noise(1, 200_000));
    nodes[1].wait_for_file("docs/paper.txt");
    nodes[1].cli(&["prefetch", "docs"]).expect_ok();
    let told = || nodes[1].cli(&["events"]).expect_ok();
    eventually("the fetch is told", SOON, || {
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
fn a_configuration_is_checked_with_the_files_that_it_names() {
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
            wrong.stderr.starts_with("p2pfs: secret_file: "),
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

/// One reading of the metrics, over a connection of its own.
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
fn metrics_are_read_where_they_are_turned_on_and_name_no_file() {
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
    eventually("what was received is counted", SOON, || {
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
    // the dashboard asks for what there is
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
fn the_shell_is_offered_names_of_the_cluster_shares_and_nodes() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0].write("docs/paper one.txt", b"1");
    nodes[0].write("docs/other", b"1");
    nodes[1].wait_for_file("docs/paper one.txt");
    nodes[1].wait_for_file("docs/other");
    let offered = |words: &[&str]| -> Vec<String> {
        let mut command = program();
        command.arg("--").arg("p2pfs").args(words);
        command
            .env("COMPLETE", "fish")
            .env("P2PFS_SOCKET", nodes[1].socket());
        let said = run(&mut command).expect_ok();
        let first = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
        said.lines().map(first).collect()
    };
    assert_eq!(offered(&["get", "d"]), ["docs/"]);
    assert_eq!(offered(&["pin", "docs/p"]), ["docs/paper one.txt"]);
    assert_eq!(
        offered(&["why", "docs/"]),
        ["docs/other", "docs/paper one.txt"]
    );
    assert_eq!(offered(&["ping", ""])[0], "one");
    let share = nodes[1].share.to_str().unwrap();
    assert_eq!(offered(&["share", "remove", "/"]), [share]);
    for shell in ["bash", "zsh", "fish"] {
        let script = run(program().args(["completions", shell])).expect_ok();
        assert!(script.contains("COMPLETE"), "{script}");
    }
}

/// Runs a command on a terminal of 80 columns to its end, and gives what it showed.
fn on_terminal(command: &mut Command) -> String {
    let mut terminal = Terminal::open(24, 80);
    let mut child = terminal.run(command);
    let status = wait_child(&mut child, HANG_LIMIT);
    assert!(status.success(), "{command:?}: {}", terminal.shown());
    terminal.settle();
    terminal.shown()
}

/// The text without the escapes that colour it.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic()).unwrap();
        rest = &after[end + 1..];
    }
    plain + rest
}

#[apply(promise)]
fn what_people_read_fits_80_columns_has_names_and_no_colour_where_none_is_wanted() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["a-machine-with-a-long-name", "two"]);
    nodes[0].write("docs/paper.txt", &noise(1, 300_000));
    nodes[0].write("more/paper.txt", &noise(3, 300_000));
    nodes[1].wait_for_file("more/paper.txt");
    nodes[0].write("diary", b"1");
    set_mode(&nodes[0].share.join("diary"), 0o600);
    nodes[1].wait_for_file("docs/paper.txt");
    nodes[1].cli(&["prefetch", "docs"]).expect_ok();
    nodes[1].write("docs/paper.txt", &noise(2, 300_000));
    (nodes[0].cli(&[
        "say",
        "more words than a line of a terminal has room for "
            .repeat(4)
            .trim(),
    ]))
    .expect_ok();
    eventually("what was said is told", HANG_LIMIT, || {
        let events = nodes[1].cli(&["events"]).expect_ok();
        events.contains("more words")
    });
    let key = nodes[0].cli(&["status", "--json"]).expect_json()["node"].to_string();
    let commands: [&[&str]; 9] = [
        &["status"],
        &["peers"],
        &["ls", "-l", "more"],
        &["share"],
        &["why", "docs/paper.txt"],
        &["cache", "ls"],
        &["events"],
        &["ping", "a-machine-with-a-long-name"],
        &["doctor"],
    ];
    for arguments in commands {
        let shown = on_terminal(&mut nodes[1].cli_command(arguments));
        for line in plain(&shown).lines() {
            // the folders of the test are longer than a line themselves
            let is_long = line.contains("p2pfs-test-") || line.chars().count() <= 80;
            assert!(is_long, "{arguments:?}: {line}");
        }
        assert!(!shown.contains(&key[1..17]), "{arguments:?}: {shown}");
        let bare = on_terminal(nodes[1].cli_command(arguments).env("NO_COLOR", "1"));
        assert!(!bare.contains("\x1b["), "{arguments:?}: {bare:?}");
    }
    assert!(on_terminal(&mut nodes[1].cli_command(&["doctor"])).contains("\x1b[3"));
    assert!(nodes[1].is_running());
}

#[apply(promise)]
fn leaving_is_asked_about_on_a_terminal_and_nothing_happens_without_a_yes() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    let leave = |answer: &[u8]| {
        let mut terminal = Terminal::open(24, 80);
        let mut child = terminal.run(&mut node.cli_command(&["leave"]));
        terminal.read_until("[y/N] ");
        terminal.write(answer);
        wait_child(&mut child, HANG_LIMIT).code()
    };
    assert_eq!(leave(b"\n"), Some(1));
    assert_eq!(leave(b"no\n"), Some(1));
    assert_eq!(leave(b"y\n"), Some(0));
    let ended = node.await_end();
    assert!(ended.status.success(), "{}", ended.stderr);
}

#[apply(promise)]
fn a_file_that_is_not_hashed_yet_is_said_to_be_being_read() {
    use std::io::Write;

    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.write("docs/old", b"1");
    node.wait_for_file("docs/old");
    // as long as somebody writes, it is not hashed
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
    eventually("it is known of", SOON, || {
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

#[apply(promise)]
fn adding_a_share_shows_on_a_terminal_how_far_its_reading_is() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let more = cluster.folder.path().join("more");
    fs::create_dir(&more).unwrap();
    set_mode(&more, 0o755);
    let file = more.join("large");
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    set_mode(&file, 0o644);
    let dir = more.to_str().unwrap();
    let shown = on_terminal(&mut node.cli_command(&["share", "add", dir]));
    let shown = plain(&shown);
    assert!(shown.contains(" of 1.00 GiB read, "), "{shown}");
    assert!(shown.contains("/s, ") && shown.contains(" left"), "{shown}");
    assert!(shown.contains("1 files, 1.0 GiB"), "{shown}");
    // all of it is listed when the command ends
    assert_eq!(node.cli(&["ls"]).expect_ok(), "large\n");
}

#[apply(promise)]
fn bytes_go_no_faster_than_they_are_limited_either_way_and_as_configured_again() {
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
    // 8 MiB at 2 MiB a second, less what may pass at once
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
        text.contains("2MiB/s, until the next start; configured: none"),
        "{text}"
    );
    author.cli(&["limits", "--configured"]).expect_ok();
    reader.cli(&["limits", "--configured"]).expect_ok();
    let text = reader.cli(&["limits"]).expect_ok();
    assert!(text.contains("down     2MiB/s, as configured"), "{text}");
    fs::write(reader.home.join("p2pfs.toml"), "").unwrap();
    reader.signal(libc::SIGHUP);
    eventually("the reload lifts the limit", SOON, || {
        let limits = reader.cli(&["limits", "--json"]).expect_json();
        limits.get("down_bytes_per_s").is_none()
    });
    assert!(fs::read(reader.mounted("free")).unwrap() == noise(4, 8 << 20));
}
