//! Programs that first write data and then a pointer to it, seen through another node's mount:
//! mail, releases.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// Background work that runs until the test has seen enough or failed.
struct Meanwhile {
    enough: Arc<AtomicBool>,
    seen: Arc<AtomicUsize>,
    worker: Option<JoinHandle<usize>>,
}

/// Maximum number of rounds by which the work runs ahead of the reader. The kernel drops reports
/// beyond 16,384 that wait, and files found by a walk have no order.
const LEAD_MAX: usize = 20;

impl Meanwhile {
    fn begin(mut work: impl FnMut(usize) + Send + 'static) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(AtomicUsize::new(0));
        let (told, of_reader) = (enough.clone(), seen.clone());
        let worker = std::thread::spawn(move || {
            let mut rounds = 0;
            while !told.load(Ordering::Relaxed) {
                if rounds > of_reader.load(Ordering::Relaxed) + LEAD_MAX {
                    look_again();
                    continue;
                }
                work(rounds);
                rounds += 1;
            }
            rounds
        });
        Self {
            enough,
            seen,
            worker: Some(worker),
        }
    }

    /// Records how many rounds the reader has seen.
    fn saw(&self, rounds: usize) {
        self.seen.store(rounds, Ordering::Relaxed);
    }

    /// Ends the work and returns the number of its rounds.
    fn end(mut self) -> usize {
        self.enough.store(true, Ordering::Relaxed);
        let worker = self.worker.take().expect("it ends once");
        worker.join().unwrap()
    }
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        // The worker must end before its folder is removed.
        self.worker.take().map(JoinHandle::join);
    }
}

fn two_nodes(cluster: &mut Cluster) -> (Node, Node) {
    let writer = cluster.start("writer");
    let reader = cluster.start("reader");
    (writer, reader)
}

#[apply(promise)]
fn a_message_delivered_to_a_maildir_is_never_seen_partially() {
    let mut cluster = Cluster::new();
    let (writer, reader) = two_nodes(&mut cluster);
    let mail = writer.share.join("mail");
    ["tmp", "new", "cur"]
        .iter()
        .for_each(|dir| fs::create_dir_all(mail.join(dir)).unwrap());
    let deliveries = Meanwhile::begin(move |round| {
        let (tmp, new) = (
            mail.join(format!("tmp/{round}")),
            mail.join(format!("new/{round}")),
        );
        fs::write(&tmp, message(round)).unwrap();
        fs::hard_link(&tmp, &new).unwrap();
        fs::remove_file(&tmp).unwrap();
        std::thread::yield_now();
    });
    let new = reader.mounted("mail/new");
    let mut read = 0;
    eventually("messages come", HANG_LIMIT, || {
        for entry in fs::read_dir(&new)
            .into_iter()
            .flatten()
            .flatten()
            .skip(read)
        {
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            assert_eq!(fs::read_to_string(entry.path()).unwrap(), message(number));
            read += 1;
        }
        deliveries.saw(read);
        read > 100
    });
    let delivered = deliveries.end();
    eventually("all of them", HANG_LIMIT, || {
        fs::read_dir(&new).unwrap().count() == delivered
    });
}

fn message(number: usize) -> String {
    format!("message {number}\n").repeat(number % 300)
}

#[apply(promise)]
fn a_current_link_always_points_to_a_whole_release() {
    let mut cluster = Cluster::new();
    let (writer, reader) = two_nodes(&mut cluster);
    let site = writer.share.join("site");
    fs::create_dir_all(site.join("releases")).unwrap();
    let mut deployment = Deployment::begin(&site);
    let releases = Meanwhile::begin(move |round| deployment.release(round));
    let current = reader.mounted("site/current");
    let mut seen = 0;
    eventually("releases come", HANG_LIMIT, || {
        let Ok(target) = fs::read_link(&current) else {
            return false;
        };
        assert!(target.is_relative(), "{target:?}");
        let release = reader.mounted("site").join(&target);
        let number = target
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        for n in 0..20 {
            let at: PathBuf = release.join(format!("page{n}"));
            let read = fs::read_to_string(&at).unwrap_or_else(|error| {
                let events = reader.cli(&["events"]).text();
                let of_nodes = events.lines().filter(|event| event.contains(" is "));
                panic!("{at:?}: {error}: {:#?}", of_nodes.collect::<Vec<_>>())
            });
            assert_eq!(read, page(number, n), "{at:?}");
        }
        releases.saw(number + 1);
        seen += 1;
        seen > 30
    });
    assert!(releases.end() > 1);
}

/// Size above the limit up to which later files wait for a file without a time limit (p2pfs(7),
/// Order).
const LARGE_BYTES: usize = (64 << 20) + 1;
/// How long later files wait for a larger file.
const LARGE_WAIT: Duration = Duration::from_secs(1);

#[apply(promise)]
fn a_pointer_to_a_large_linked_file_waits_for_it_as_documented() {
    let mut cluster = Cluster::new();
    let (writer, reader) = two_nodes(&mut cluster);
    let source = writer.home.join("source");
    fs::write(&source, vec![7; LARGE_BYTES]).unwrap();
    // Separate processes write here. Other tests that start a process meanwhile inherit the files
    // that this process has open.
    let in_share = |line: &str| {
        let mut shell = Command::new("sh");
        run(shell.args(["-c", line]).current_dir(&writer.share)).expect_ok();
    };
    in_share("cp ../source tmp");
    let begun = Instant::now();
    in_share("ln tmp large && rm tmp && echo large > next && mv next pointer");
    let (large, pointer) = (reader.mounted("large"), reader.mounted("pointer"));
    let is_whole = || {
        let found = fs::metadata(&large);
        // No partial file may appear.
        found.is_ok_and(|found| found.len() == LARGE_BYTES as u64 || panic!("{found:?}"))
    };
    eventually("the pointer comes", HANG_LIMIT, || {
        is_whole();
        fs::read_to_string(&pointer).is_ok_and(|text| text == "large\n")
    });
    let waited = |elapsed| is_whole() || elapsed >= LARGE_WAIT;
    assert!(waited(begun.elapsed()), "it was listed first, and at once");
    eventually("the large file comes", HANG_LIMIT, is_whole);
    run(Command::new("cmp").arg(&source).arg(&large)).expect_ok();
}

/// A process that puts releases in place. It is separate because other tests inherit files that
/// this process has open for writing until their programs run. The daemon does not wait for such a
/// file.
struct Deployment {
    shell: Child,
    rounds: ChildStdin,
    done: BufReader<ChildStdout>,
}

/// Creates a release and an absolute link for each number on its input, as deployment tools do.
const DEPLOY: &str = r#"
while read round; do
    release="$PWD/releases/$round"
    mkdir "$release"
    page=0
    while [ $page -lt 20 ]; do
        line=0
        while [ $line -lt $page ]; do
            echo "page $page of release $round"
            line=$((line + 1))
        done > "$release/page$page"
        page=$((page + 1))
    done
    ln -s "$release" next
    mv -T next current
    echo done
done"#;

impl Deployment {
    fn begin(site: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", DEPLOY]).current_dir(site);
        let mut shell = fork(command.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
        Self {
            rounds: shell.stdin.take().unwrap(),
            done: BufReader::new(shell.stdout.take().unwrap()),
            shell,
        }
    }

    fn release(&mut self, round: usize) {
        writeln!(self.rounds, "{round}").unwrap();
        let mut done = String::new();
        self.done.read_line(&mut done).unwrap();
        assert_eq!(done, "done\n");
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn page(release: usize, number: usize) -> String {
    format!("page {number} of release {release}\n").repeat(number)
}
