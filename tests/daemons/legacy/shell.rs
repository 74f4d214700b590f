//! `p2pfs legacy-shell`: a session of the older program, word for word, from both ends.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::time::Duration;

use macro_rules_attribute::apply;
use parking_lot::Mutex;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::legacy_peer::OldPeer;
use crate::support::process::*;
use crate::support::promise::{Need, promise};

const NEEDS: &[Need] = &[];

const SOON: Duration = Duration::from_secs(40);
const PROMPT: &str =
    "Enter a file you want to download or 'list' to see the cluster ('quit' to exit)";

/// A shell with somebody at its keyboard.
struct Shell {
    child: Child,
    keyboard: Option<ChildStdin>,
    screen: Arc<Mutex<Vec<String>>>,
    seen: usize,
}

impl Shell {
    fn start(dir: &Path, variables: &[(&str, &str)]) -> Self {
        let mut child = program()
            .arg("legacy-shell")
            .envs(variables.iter().copied())
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (lines, shown) = (BufReader::new(child.stdout.take().unwrap()), screen.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                shown.lock().push(line);
            }
        });
        Self {
            keyboard: child.stdin.take(),
            child,
            screen,
            seen: 0,
        }
    }

    fn types(&mut self, line: &str) {
        writeln!(self.keyboard.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for these lines and no others.
    #[track_caller]
    fn shows(&mut self, lines: &[&str]) {
        for line in lines {
            let at = self.seen;
            let next = || self.screen.lock().get(at).cloned();
            eventually(&format!("it shows {line:?}"), SOON, || next().is_some());
            assert_eq!(next().unwrap(), *line);
            self.seen += 1;
        }
    }

    /// Types the old word for the end, and waits for it.
    #[track_caller]
    fn ends(mut self, word: &str) {
        self.types(word);
        self.shows(&["Shutting down...", "Shutdown complete"]);
        assert!(self.child.wait().unwrap().success());
        assert_eq!(self.screen.lock().len(), self.seen);
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // the end of the keyboard ends the shell, and that its daemon
        self.keyboard = None;
        let _ended = self.child.wait();
    }
}

/// A port that nothing listens on right now.
fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn folder(home: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let folder = home.join(name);
    fs::create_dir(&folder).unwrap();
    set_mode(&folder, 0o755);
    for (file, bytes) in files {
        fs::write(folder.join(file), bytes).unwrap();
        set_mode(&folder.join(file), 0o644);
    }
    folder
}

#[track_caller]
fn answer_the_questions(shell: &mut Shell, folder: &Path, member: &str) {
    shell.shows(&["Enter the folder you want to share:"]);
    shell.types(&folder.display().to_string());
    shell.shows(&["Enter your cluster members list (one per line, enter 'q' to finish):"]);
    shell.types(member);
    shell.shows(&[&format!("Added: {member}")]);
    shell.types("q");
    shell.shows(&[PROMPT]);
}

#[apply(promise)]
fn the_old_tutorial_goes_word_for_word_at_both_ends() {
    let home = tempfile::tempdir().unwrap();
    set_mode(home.path(), 0o755);
    let resume = noise(3, 300_000);
    let shared = folder(home.path(), "shared", &[]);
    let documents = folder(home.path(), "documents", &[("resume.pdf", &resume)]);
    let ports = [free_port(), free_port()];
    let start = |port: u16| {
        let port = port.to_string();
        Shell::start(home.path(), &[("P2P_PORT", &port), ("P2P_PERIOD", "1")])
    };
    let (mut a, mut b) = (start(ports[0]), start(ports[1]));
    let [at_a, at_b] = ports.map(|port| format!("127.0.0.1:{port}"));
    answer_the_questions(&mut a, &shared, &at_b);
    answer_the_questions(&mut b, &documents, &at_a);
    a.types("list");
    a.shows(&["Cluster members:", &format!("  1. {at_b}"), PROMPT]);
    a.types("get resume.pdf");
    b.shows(&[
        "A client has connected!",
        "Sending filename and filesize!",
        "Start sending file",
        "File has been sent, closing connection!",
    ]);
    a.shows(&["Received file completely!", PROMPT]);
    assert!(fs::read(shared.join("resume.pdf")).unwrap() == resume);
    b.types("list");
    b.shows(&["Cluster members:", &format!("  1. {at_a}"), PROMPT]);
    a.ends("quit");
    b.ends("exit");
    let left: Vec<_> = fs::read_dir(&shared).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[apply(promise)]
fn every_answer_is_the_old_one() {
    let home = tempfile::tempdir().unwrap();
    set_mode(home.path(), 0o755);
    let shared = folder(home.path(), "shared", &[("ours.txt", b"ours")]);
    fs::write(home.path().join("a file"), b"").unwrap();
    let peer = OldPeer::start(Duration::ZERO);
    peer.gives_file("theirs.txt", b"theirs");
    let port = free_port().to_string();
    let mut shell = Shell::start(
        home.path(),
        &[
            ("P2P_PORT", &port),
            ("P2P_PERIOD", "1"),
            ("P2P_WAITING", "3"),
        ],
    );
    shell.shows(&["Enter the folder you want to share:"]);
    shell.types("/nowhere at all");
    shell.shows(&[
        "Couldn't find the folder, please try again",
        "Enter the folder you want to share:",
    ]);
    shell.types("a file");
    shell.shows(&[
        "Path is not a directory, please try again",
        "Enter the folder you want to share:",
    ]);
    shell.types("shared");
    shell.shows(&["Enter your cluster members list (one per line, enter 'q' to finish):"]);
    shell.types("nonsense");
    shell.shows(&["Invalid address format. Use IP:Port (e.g., 127.0.0.1:1378)"]);
    shell.types("");
    shell.types("q");
    shell.shows(&[PROMPT]);
    shell.types("list");
    shell.shows(&["Cluster members:", "  (no members)", PROMPT]);
    shell.types("get");
    shell.shows(&["Usage: get <filename>", PROMPT]);
    shell.types("help");
    shell.shows(&[
        "Unknown command. Use 'list', 'get <filename>', or 'quit'",
        PROMPT,
    ]);
    // a member that nobody typed, and a name that nobody has, which prints nothing
    let node: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    peer.say(node, format!("DISCOVER,{node}\n").as_bytes());
    eventually("the peer is told of the node", SOON, || {
        !peer.members().is_empty()
    });
    shell.types("list");
    shell.shows(&[
        "Cluster members:",
        &format!("  1. {}", peer.address()),
        PROMPT,
    ]);
    shell.types("get absent.txt");
    shell.shows(&[PROMPT]);
    shell.types("get theirs.txt");
    shell.shows(&["Received file completely!", PROMPT]);
    assert_eq!(fs::read(shared.join("theirs.txt")).unwrap(), b"theirs");
    // at once, since that peer has answered
    assert_eq!(peer.get("ours.txt", SOON).unwrap().bytes, b"ours");
    shell.shows(&[
        "A client has connected!",
        "Sending filename and filesize!",
        "Start sending file",
        "File has been sent, closing connection!",
    ]);
    shell.ends("quit");
}

#[apply(promise)]
fn ctrl_c_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    set_mode(home.path(), 0o755);
    let shared = folder(home.path(), "shared", &[]);
    let port = free_port().to_string();
    let temporary = home.path().display().to_string();
    let variables = [("P2P_PORT", port.as_str()), ("TMPDIR", &temporary)];
    let mut shell = Shell::start(home.path(), &variables);
    answer_the_questions(&mut shell, &shared, "127.0.0.1:7");
    let kept = || {
        let all = fs::read_dir(home.path()).unwrap().flatten();
        all.filter(|entry| entry.file_name() != "shared").count()
    };
    assert_eq!(kept(), 1, "the daemon's own folder");
    // SAFETY: the child was not waited for yet, so its pid is still its own.
    unsafe { libc::kill(shell.child.id() as i32, libc::SIGINT) };
    eventually("the shell ends", SOON, || {
        shell.child.try_wait().unwrap().is_some()
    });
    assert_eq!(kept(), 0);
    let port: u16 = port.parse().unwrap();
    assert!(
        UdpSocket::bind(("127.0.0.1", port)).is_ok(),
        "its daemon is gone"
    );
}

#[apply(promise)]
fn the_old_variables_and_config_yml_ask_nothing() {
    let home = tempfile::tempdir().unwrap();
    set_mode(home.path(), 0o755);
    let shared = folder(home.path(), "shared", &[]);
    let peer = OldPeer::start(Duration::ZERO);
    let port = free_port();
    let old = format!("host: \"127.0.0.1\" # ours\nport: {port}\nperiod: 1\nwaiting: 3\n");
    fs::write(home.path().join("config.yml"), old).unwrap();
    let cluster = format!("{}, localhost:7", peer.address());
    let folder = shared.display().to_string();
    let mut shell = Shell::start(
        home.path(),
        &[("P2P_FOLDER", &folder), ("P2P_CLUSTER", &cluster)],
    );
    shell.shows(&[
        "Using environment configuration:",
        &format!("  Folder: {folder}"),
        &format!("  Cluster: {cluster}"),
        PROMPT,
    ]);
    let node = format!("127.0.0.1:{port}");
    eventually("the peer hears of the port of config.yml", SOON, || {
        peer.members().contains(&node)
    });
    shell.types("list");
    shell.shows(&[
        "Cluster members:",
        &format!("  1. {}", peer.address()),
        "  2. localhost:7",
        PROMPT,
    ]);
    shell.ends("quit");
}
