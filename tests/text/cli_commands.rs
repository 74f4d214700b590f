//! The command line against a fake daemon on a real control socket.

use std::io::Write;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use assert_cmd::Command;
use jiff::Timestamp;
use p2pfs::daemon::control::{
    AbsentPeer, CacheListing, CacheUsage, CacheVerified, Call, ControlRequest, ControlServer,
    Dropped, EntryKind, Event, EventKind, Failure, FailureKind, GetDone, GetStarted, KeptFiles,
    Listing, LsEntry, MountActivity, MountStatus, Named, NamespaceStatus, Nothing, PeerCounts,
    PeerState, Peers, Plane, Policy, Problem, Progress, Provenance, ServiceState, SourceShare,
    Status, Touched, Traffic, VersionInfo,
};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// A daemon that answers by a function, and records the calls.
pub(crate) struct FakeDaemon {
    dir: tempfile::TempDir,
    pub(crate) asked: Arc<Mutex<Vec<Call>>>,
    _runtime: Runtime,
}

impl FakeDaemon {
    pub(crate) fn start(answer: impl Fn(ControlRequest) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (sender, mut requests) = mpsc::channel(16);
        let _guard = runtime.enter();
        let path = dir.path().join("p2pfs.sock");
        let server = ControlServer::bind(&path, Policy::of_this_process(), 16).unwrap();
        runtime.spawn(server.serve(sender));
        let heard = Arc::clone(&asked);
        runtime.spawn(async move {
            while let Some(request) = requests.recv().await {
                heard.lock().push(request.call.clone());
                match request.call {
                    Call::Status {} => request.reply.done(&status()),
                    _ => answer(request),
                }
            }
        });
        Self {
            dir,
            asked,
            _runtime: runtime,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::cargo_bin("p2pfs").unwrap();
        command
            .env_clear()
            .env("HOME", self.path())
            .current_dir(self.path());
        command
            .env("P2PFS_SOCKET", self.path().join("p2pfs.sock"))
            .env("TZ", "UTC");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Runs a command that must succeed. Returns its output.
    pub(crate) fn output(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.output(arguments)).unwrap()
    }

    pub(crate) fn asked(&self) -> Vec<Call> {
        self.asked.lock().clone()
    }
}

fn status() -> Status {
    Status {
        name: "lab-1".to_owned(),
        node: "ab".repeat(32),
        version: "0.1.0".to_owned(),
        pid: 7,
        started: Timestamp::UNIX_EPOCH,
        state: ServiceState::Serving,
        address: "10.0.0.1:1378".to_owned(),
        epoch: "0011223344556677".to_owned(),
        mount: MountStatus {
            enabled: true,
            mounted: true,
            writable: true,
            dir: Named::new("/mnt/p2p"),
            problem: None,
            activity: MountActivity::default(),
        },
        peers: PeerCounts {
            alive: 2,
            down: 1,
            ..PeerCounts::default()
        },
        absent: vec![AbsentPeer {
            name: "lab-3".to_owned(),
            node: "cd".repeat(32),
            state: PeerState::Down,
            since: Timestamp::UNIX_EPOCH,
        }],
        namespace: NamespaceStatus {
            entries: 3,
            unique_bytes: 1 << 20,
        },
        cache: CacheUsage {
            budget_bytes: 1 << 30,
            ..CacheUsage::default()
        },
        keep: KeptFiles::default(),
        written: None,
        traffic: Traffic::default(),
        waiting_reads: 0,
        open_versions: 0,
        dropped: Dropped::default(),
        shares: Vec::new(),
        legacy: false,
        mesh: None,
        warnings: vec![
            "the clock\x1b[31m is off".to_owned(),
            "the key is copied".to_owned(),
        ],
        errors: vec!["the key is copied".to_owned()],
    }
}

pub(crate) fn entry(path: &[u8]) -> LsEntry {
    LsEntry {
        path: Named::new(path),
        kind: EntryKind::File,
        size_bytes: 2048,
        modified: Timestamp::UNIX_EPOCH,
        executable: false,
        hash: Some("cd".repeat(32)),
        holders: vec!["lab-2".to_owned(), "lab-3".to_owned()],
        cached_bytes: 1024,
        pinned: false,
        plane: Plane::Native,
    }
}

/// Answers `Get` with bytes through a pipe, but sends only `given` of them.
pub(crate) fn serve_file(request: ControlRequest, size_bytes: usize, given: usize) {
    tokio::spawn(async move {
        let (read, mut write) = std::io::pipe().unwrap();
        let started = GetStarted {
            hash: "cd".repeat(32),
            size_bytes: size_bytes as u64,
            cached_bytes: 0,
            executable: true,
        };
        request
            .reply
            .more_with(&started, read.into())
            .await
            .unwrap();
        let written = tokio::task::spawn_blocking(move || write.write_all(&vec![7; given]));
        written.await.unwrap().unwrap();
        if given < size_bytes {
            let failure = Failure::new(FailureKind::Failed, "no holder is reachable");
            return request.reply.fail(failure.with_remedy("see p2pfs peers"));
        }
        let source = SourceShare {
            name: "lab-2".to_owned(),
            received_bytes: 9,
        };
        request.reply.done(&GetDone {
            sources: vec![source],
        });
    });
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns the names in a folder without the socket.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name != "p2pfs.sock");
    names.sort();
    names
}

#[test]
fn status_is_readable_as_text_and_as_json() {
    let daemon = FakeDaemon::start(drop);
    let text = daemon.output(&["status"]);
    assert!(
        text.contains("lab-1, serving") && !text.contains("abab"),
        "{text}"
    );
    assert!(
        text.contains("/mnt/p2p") && text.contains("2 alive"),
        "{text}"
    );
    assert!(text.contains("the clock\\u{1b}[31m is off"), "{text}");
    assert!(!text.contains('\x1b'), "colour into a pipe: {text}");
    assert!(text.contains("absent   lab-3 is down since "), "{text}");
    assert!(text.contains("error    the key is copied"), "{text}");
    let first = text.find("error  ");
    assert!(first < text.find("warning"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    let json = daemon.json(&["status", "--json"]);
    assert_eq!(json["mount"]["path"], "/mnt/p2p");
    assert_eq!(json["started"], "1970-01-01T00:00:00Z");
    assert_eq!(json["cache"]["budget_bytes"], 1 << 30);
}

#[test]
fn ls_reads_page_after_page_and_accepts_a_path_in_any_form() {
    let daemon = FakeDaemon::start(|request| {
        let Call::Ls { path, after } = &request.call else {
            panic!("{:?}", request.call)
        };
        assert_eq!(path.as_bytes(), b"docs");
        let listing = match after {
            None => Listing {
                entries: vec![entry(b"docs/a")],
                being_read: Vec::new(),
                more: true,
            },
            Some(after) => {
                assert_eq!(after.as_bytes(), b"docs/a");
                Listing {
                    entries: vec![entry(b"docs/b")],
                    ..Listing::default()
                }
            }
        };
        request.reply.done(&listing);
    });
    for path in ["docs", "docs/", "./docs", "/docs", "/mnt/p2p/docs"] {
        assert_eq!(daemon.output(&["ls", path]), "a\nb\n", "{path}");
    }
    let through_a_link = daemon.path().join("link");
    std::os::unix::fs::symlink("/mnt", &through_a_link).unwrap();
    let path = through_a_link.join("p2p/docs");
    assert_eq!(daemon.output(&["ls", path.to_str().unwrap()]), "a\nb\n");
    let json = daemon.json(&["ls", "docs", "--json"]);
    assert_eq!(json["entries"][1]["path"], "docs/b");
    assert_eq!(json["entries"][0]["size_bytes"], 2048);
    let long = daemon.output(&["ls", "-l", "docs"]);
    assert!(
        long.contains("2048") && long.contains("50%") && long.contains("lab-2,lab-3"),
        "{long}"
    );
    assert!(long.contains("1970-01-01 00:00:00"), "{long}");
}

#[test]
fn a_failure_of_the_daemon_is_one_line_in_any_wording() {
    let daemon = FakeDaemon::start(|request| {
        let failure = Failure::new(FailureKind::NotFound, "no such name: a\nb\x1b[31m");
        request
            .reply
            .fail(failure.with_remedy("look around: p2pfs ls"));
    });
    let output = daemon.run(&["why", "a"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert_eq!(
        said,
        "p2pfs: no such name: a\\nb\\u{1b}[31m; look around: p2pfs ls\n"
    );
}

#[test]
fn pin_and_prefetch_split_many_names_into_calls_and_fail_with_the_first_failure() {
    let daemon = FakeDaemon::start(|request| {
        tokio::spawn(async move {
            let (Call::Prefetch { paths, .. } | Call::Pin { paths }) = &request.call else {
                return;
            };
            let files = paths.iter().filter(|path| path.as_bytes() != b"a").count() as u64;
            let mut touched = Touched {
                files,
                bytes: 10 * files,
                failed: Vec::new(),
            };
            if matches!(request.call, Call::Prefetch { .. }) {
                request.reply.more(&Progress::default()).await.unwrap();
                let why = "no holder is reachable".to_owned();
                touched.failed.push(Problem {
                    path: Named::new("a\n"),
                    why,
                });
            }
            request.reply.done(&touched);
        });
    });
    let names: Vec<String> = (0..70).map(|number| format!("f{number}")).collect();
    let arguments: Vec<&str> = ["pin", "--json"]
        .into_iter()
        .chain(names.iter().map(|n| &**n))
        .collect();
    assert_eq!(daemon.json(&arguments)["files"], 70);
    let asked = daemon.asked();
    let pins = asked.iter().filter(|call| matches!(call, Call::Pin { .. }));
    assert_eq!(pins.count(), 1);
    let names: Vec<String> = (0..700)
        .map(|number| format!("{number}{:02000}", 0))
        .collect();
    let named = names.iter().map(|name| &**name);
    let arguments: Vec<&str> = ["pin", "--json"].into_iter().chain(named).collect();
    assert_eq!(daemon.json(&arguments)["files"], 700);
    let asked = daemon.asked();
    let pins = asked.iter().filter(|call| matches!(call, Call::Pin { .. }));
    assert_eq!(pins.count(), 1 + 2);
    // Several calls would not know each other's use of the cache, so the command refuses.
    let arguments: Vec<&str> = [&["prefetch"], &arguments[2..]].concat();
    let output = daemon.run(&arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("700 names are too many for one call"));
    let output = daemon.run(&["prefetch", "a", "b"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("p2pfs: a\\n: no holder is reachable"));
    assert_eq!(output.stdout, b"1 file, 10 B: in the cache\n");
    // If nothing was done, the reason is the whole output.
    let output = daemon.run(&["prefetch", "a"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
}

#[test]
fn cache_verify_fails_when_bytes_were_wrong() {
    let daemon = FakeDaemon::start(|request| match request.call {
        Call::CacheVerify {} => {
            request.reply.done(&CacheVerified {
                files: 2,
                bytes: 20,
                dropped_bytes: 4096,
                unopened_files: 0,
            });
        }
        Call::CacheResize { budget_bytes } => {
            request.reply.done(&CacheUsage {
                budget_bytes,
                ..CacheUsage::default()
            });
        }
        _ => request.reply.done(&CacheListing::default()),
    });
    let output = daemon.run(&["cache", "verify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("4.0 KiB were wrong"));
    assert!(
        daemon
            .output(&["cache", "resize", "20GiB"])
            .contains("of 20.0 GiB in use")
    );
    assert_eq!(
        daemon.json(&["cache", "ls", "--json"])["entries"],
        serde_json::json!([])
    );
}

#[test]
fn events_are_printed_as_lines_of_text_or_json() {
    let daemon = FakeDaemon::start(|request| {
        let Call::Events { follow: false } = request.call else {
            panic!("{:?}", request.call)
        };
        tokio::spawn(async move {
            for what in [
                EventKind::PeerUp {
                    peer: "lab-2".to_owned(),
                    node: "ab".repeat(32),
                },
                EventKind::FileAdded(Named::new(b"caf\xe9".to_vec())),
            ] {
                let event = Event {
                    time: Timestamp::UNIX_EPOCH,
                    what,
                };
                request.reply.more(&event).await.unwrap();
            }
            request.reply.done(&Nothing {});
        });
    });
    let text = daemon.output(&["events"]);
    assert!(
        text.contains("lab-2 is up\n") && text.contains("added caf\\xe9\n"),
        "{text}"
    );
    let json = daemon.output(&["events", "--json"]);
    let lines: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["event"], "peer-up");
    assert_eq!(lines[1]["path_base64"], "Y2Fm6Q==");
}

#[test]
fn why_explains_every_version_and_the_rule() {
    let daemon = FakeDaemon::start(|request| {
        request.reply.done(&Provenance {
            path: Named::new("a"),
            listed: true,
            rule: "only one version is known".to_owned(),
            versions: Vec::new(),
            sent_by: None,
            left_out: None,
            owner: None,
            next_read: "from the cache".to_owned(),
        });
    });
    let text = daemon.output(&["why", "a"]);
    assert!(
        text.contains("a: listed") && text.contains("only one version"),
        "{text}"
    );
    assert_eq!(
        daemon.json(&["why", "a", "--json"])["next_read"],
        "from the cache"
    );
}

#[test]
fn why_names_no_author_of_a_directory_that_no_node_shares_itself() {
    let daemon = FakeDaemon::start(|request| {
        let directory = VersionInfo {
            shown_as: Some(Named::new("photos")),
            won: true,
            waits: false,
            author: String::new(),
            author_node: String::new(),
            kind: EntryKind::Directory,
            hash: None,
            size_bytes: 0,
            modified: Timestamp::UNIX_EPOCH,
            version_time: Timestamp::UNIX_EPOCH,
            holders: Vec::new(),
            cached_bytes: 0,
            verified: "blake3".to_owned(),
        };
        request.reply.done(&Provenance {
            path: Named::new("photos"),
            listed: true,
            rule: "there is one version".to_owned(),
            versions: vec![directory],
            sent_by: None,
            left_out: None,
            owner: None,
            next_read: "nothing is fetched: it is not a regular file".to_owned(),
        });
    });
    let text = daemon.output(&["why", "photos"]);
    assert!(
        text.contains("a directory that no node shares itself"),
        "{text}"
    );
    assert!(!text.contains("by ,") && !text.contains("1970"), "{text}");
}

#[test]
fn a_closed_output_pipe_is_not_a_failure() {
    let daemon = FakeDaemon::start(|request| {
        let entries = (0..900)
            .map(|n| entry(format!("{n:0200}").as_bytes()))
            .collect();
        request.reply.done(&Listing {
            entries,
            ..Listing::default()
        });
    });
    let binary = assert_cmd::cargo::cargo_bin("p2pfs");
    let mut child = std::process::Command::new(binary)
        .args(["ls", "--socket"])
        .arg(daemon.path().join("p2pfs.sock"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        stderr(&output)
    );
}

#[test]
fn peers_without_any_explains_how_to_get_one() {
    let daemon = FakeDaemon::start(|request| request.reply.done(&Peers::default()));
    let said = daemon.output(&["peers"]);
    assert!(
        said.contains("p2pfs invite") && said.contains("the same file"),
        "{said}"
    );
    assert_eq!(
        daemon.json(&["peers", "--json"])["peers"],
        serde_json::json!([])
    );
}
