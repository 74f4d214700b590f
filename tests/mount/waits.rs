//! Real mounts: readers whose bytes do not arrive, and how they end.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::content::noise;
use crate::support::memory::{Behaviour, Memory};
use crate::support::mounted::{Mounted, errno};
use crate::support::process::{
    AT_ONCE, HANG_LIMIT, eventually, hearing_interrupts, run_with, wait_child,
};
use crate::support::promise::{Need, mount_as_root, promise};
use macro_rules_attribute::apply;
use p2pfs_fuse::ReaderBudget;
use p2pfs_types::digest::ContentHash;
use rustix::process::{Pid, Signal};

const NEEDS: &[Need] = &[mount_as_root];

/// Longer than any test waits, so that no test reaches it by accident. A hung test ends
/// nevertheless.
const NEVER: Duration = Duration::from_secs(600);

fn patient(content: &Arc<Memory>) -> Mounted {
    Mounted::start(content, |options| options.server.deadlines.read = NEVER)
}

/// Starts a process that reads a file of the mount.
fn reader(program: &str, file: &Path) -> Child {
    let mut command = Command::new(program);
    command
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    hearing_interrupts(&mut command).spawn().unwrap()
}

/// Starts a process that reads a file without the page cache.
pub(crate) fn direct_reader(file: &Path) -> Child {
    let source = format!("if={}", file.display());
    let mut command = Command::new("dd");
    command.args([
        &source,
        "of=/dev/null",
        "bs=4096",
        "count=1",
        "iflag=direct",
    ]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    hearing_interrupts(&mut command).spawn().unwrap()
}

fn opens(mounted: &Mounted) -> u64 {
    let operations = mounted.mount.activity().operations;
    operations
        .iter()
        .find(|it| it.name == "open")
        .map_or(0, |it| it.count)
}

/// Returns whether the kernel has put the process to sleep (proc_pid_stat(5)). Reading its state
/// takes no lock that a blocked reader may hold.
fn is_waiting(child: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    stat.rsplit(')')
        .next()
        .unwrap()
        .trim_start()
        .starts_with(['S', 'D'])
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
}

extern "C" fn ignore_signal(_: libc::c_int) {}

fn catch_without_restart(signal: libc::c_int) {
    // SAFETY: the handler does nothing. Without SA_RESTART it interrupts a wait.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore_signal as *const () as usize;
        assert_eq!(
            libc::sigaction(signal, &raw const action, std::ptr::null_mut()),
            0
        );
    }
}

#[apply(promise)]
fn bytes_that_never_arrive_are_eio_at_the_deadline_and_repeats_at_once() {
    let content = Memory::new();
    content.dead("dead", 10 << 20);
    let deadline = Duration::from_secs(1);
    let mounted = Mounted::start(&content, |o| o.server.deadlines.read = deadline);
    let begun = Instant::now();
    assert_eq!(errno(fs::read(mounted.at("dead"))), libc::EIO);
    assert!(begun.elapsed() >= deadline);
    // After a failed read-ahead the kernel asks page by page, and each page would take another
    // deadline.
    assert!(begun.elapsed() < deadline * 20, "{:?}", begun.elapsed());
    eventually("what waited is cancelled", HANG_LIMIT, || {
        content.cancels.load(Ordering::Relaxed) > 0
    });
    assert!(mounted.mount.activity().expired > 0);
    eventually("nothing waits", HANG_LIMIT, || {
        mounted.mount.activity().waiting == 0
    });
}

#[apply(promise)]
fn a_read_with_bytes_under_way_waits_beyond_the_deadline() {
    let content = Memory::new();
    let bytes = noise(5, 300_000);
    let hash = ContentHash::of(&bytes);
    let on_its_way = Behaviour::OnItsWay(Arc::new(bytes.clone()));
    content.behave("slow", hash, 300_000, on_its_way);
    let deadline = Duration::from_millis(200);
    let mounted = Mounted::start(&content, |o| o.server.deadlines.read = deadline);
    let begun = Instant::now();
    assert!(fs::read(mounted.at("slow")).unwrap() == bytes);
    assert!(begun.elapsed() >= deadline);
    assert_eq!(mounted.mount.activity().expired, 0);
}

#[apply(promise)]
fn a_hung_open_ends_at_the_deadline_or_by_a_signal_and_leaks_nothing() {
    let content = Memory::new();
    content.behave("late", ContentHash::of(b"late"), 100, Behaviour::OpensLate);
    let deadline = Duration::from_millis(300);
    let mounted = Mounted::start(&content, |o| o.server.deadlines.metadata = deadline);
    assert_eq!(errno(File::open(mounted.at("late"))), libc::EIO);
    content.open_gate();
    eventually("the late answer is undone", HANG_LIMIT, || {
        mounted.mount.activity().handles == 0 && content.open_count() == 0
    });
    drop(mounted);

    let content = Memory::new();
    content.behave("late", ContentHash::of(b"late"), 100, Behaviour::OpensLate);
    let mounted = Mounted::start(&content, |o| o.server.deadlines.metadata = NEVER);
    let mut child = reader("cat", &mounted.at("late"));
    content.wait_for_late(1);
    let begun = Instant::now();
    signal(&child, Signal::INT);
    wait_child(&mut child, HANG_LIMIT);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    content.open_gate();
    eventually("what it opened is closed", HANG_LIMIT, || {
        content.open_count() == 0
    });
}

#[apply(promise)]
fn an_interrupted_reader_is_gone_at_once() {
    let content = Memory::new();
    content.dead("dead", 10 << 20);
    let mounted = patient(&content);
    for (number, how) in [Signal::INT, Signal::TERM, Signal::KILL]
        .into_iter()
        .enumerate()
    {
        let mut child = reader("cat", &mounted.at("dead"));
        if number == 0 {
            content.wait_for_stuck(1);
        } else {
            // Later readers wait for the pages that the first one's read-ahead asked for.
            eventually("it opens the file", HANG_LIMIT, || {
                opens(&mounted) > number as u64
            });
            eventually("it waits", HANG_LIMIT, || is_waiting(&child));
        }
        let begun = Instant::now();
        signal(&child, how);
        let status = wait_child(&mut child, HANG_LIMIT);
        assert!(!status.success());
        assert!(begun.elapsed() < AT_ONCE, "{how:?}: {:?}", begun.elapsed());
    }
}

#[apply(promise)]
fn an_interrupted_direct_read_is_gone_at_once() {
    let content = Memory::new();
    content.dead("dead", 10 << 20);
    let mounted = patient(&content);
    for (number, how) in [Signal::INT, Signal::KILL].into_iter().enumerate() {
        let mut child = direct_reader(&mounted.at("dead"));
        content.wait_for_stuck(number + 1);
        let begun = Instant::now();
        signal(&child, how);
        wait_child(&mut child, HANG_LIMIT);
        assert!(begun.elapsed() < AT_ONCE, "{how:?}: {:?}", begun.elapsed());
    }
    eventually("nothing waits", HANG_LIMIT, || {
        mounted.mount.activity().waiting == 0
    });
    eventually("both are cancelled", HANG_LIMIT, || {
        content.cancels.load(Ordering::Relaxed) >= 2
    });
}

#[apply(promise)]
fn a_caught_signal_ends_a_direct_read_with_eintr() {
    let content = Memory::new();
    content.dead("dead", 10 << 20);
    let mounted = patient(&content);
    catch_without_restart(libc::SIGUSR1);
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(mounted.at("dead"))
        .unwrap();
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let read = scope.spawn(move || {
            // SAFETY: names the calling thread.
            tell.send(unsafe { libc::pthread_self() }).unwrap();
            file.read_at(&mut [0; 4096], 0).unwrap_err().kind()
        });
        let thread = told.recv().unwrap();
        content.wait_for_stuck(1);
        // SAFETY: the thread is not joined yet.
        unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
        assert_eq!(read.join().unwrap(), ErrorKind::Interrupted);
    });
}

#[apply(promise)]
fn many_dead_read_aheads_do_not_starve_another_file() {
    let content = Memory::new();
    for number in 0..40 {
        content.dead(&format!("dead-{number}"), 64 << 20);
    }
    let bytes = noise(1, 8 << 20);
    content.file("alive", bytes.clone());
    let mounted = patient(&content);
    let mut readers: Vec<Child> = (0..40)
        .map(|n| reader("cat", &mounted.at(&format!("dead-{n}"))))
        .collect();
    content.wait_for_stuck(40);
    let copy = mounted.beside("copy");
    let copied = run_with("cp", &[&mounted.at("alive"), &copy]);
    assert!(copied.status.success(), "{copied:?}");
    assert!(fs::read(copy).unwrap() == bytes);
    assert!(run_with("ls", &[&"-la", &mounted.dir()]).status.success());
    for child in &mut readers {
        child.kill().unwrap();
        wait_child(child, HANG_LIMIT);
    }
}

#[apply(promise)]
fn open_and_close_of_a_file_with_reads_under_way_never_wait() {
    let content = Memory::new();
    content.dead("dead", 64 << 20);
    let mounted = patient(&content);
    let mut stuck = reader("cat", &mounted.at("dead"));
    content.wait_for_stuck(1);
    let begun = Instant::now();
    for _ in 0..20 {
        drop(File::open(mounted.at("dead")).unwrap());
        assert_eq!(fs::metadata(mounted.at("dead")).unwrap().len(), 64 << 20);
    }
    assert!(begun.elapsed() < AT_ONCE);
    stuck.kill().unwrap();
    wait_child(&mut stuck, HANG_LIMIT);
    drop(mounted);
    assert_eq!(
        content.open_count(),
        0,
        "the end of the mount closes everything"
    );
}

/// Pages that such a program reads are not cached, and those of other readers stay cached.
#[apply(promise)]
fn a_program_with_a_budget_opens_shared_files_at_once_and_costs_others_no_pages() {
    let content = Memory::new();
    content.dead("dead", 64 << 20);
    let bytes = noise(6, 1 << 20);
    let size = bytes.len() as u64;
    let how = Behaviour::Fetched(Arc::new(bytes.clone()));
    content.behave("come", ContentHash::of(&bytes), size, how);
    let mounted = patient(&content);
    let mut stuck = reader("cat", &mounted.at("dead"));
    content.wait_for_stuck(1);
    assert!(fs::read(mounted.at("come")).unwrap() == bytes);
    let budget = |program: String| ReaderBudget {
        program,
        bytes_s: 1 << 30,
    };
    let own_name = fs::read_to_string("/proc/self/comm").unwrap();
    let own_budget = budget(own_name.trim_end().to_owned());
    mounted.mount.readers().set_budgets(vec![own_budget]);
    let (tell, told) = std::sync::mpsc::channel();
    let files = ["dead", "come"].map(|name| mounted.at(name));
    thread::spawn(move || tell.send(files.map(|file| File::open(file).unwrap())));
    let open = told.recv_timeout(AT_ONCE);
    stuck.kill().unwrap();
    wait_child(&mut stuck, HANG_LIMIT);
    let open = open.expect("it waits for the reads of others");
    mounted.mount.readers().set_budgets(Vec::new());
    let before = mounted.mount.activity().read_bytes;
    assert!(fs::read(mounted.at("come")).unwrap() == bytes);
    assert_eq!(
        mounted.mount.activity().read_bytes,
        before,
        "from its pages"
    );
    drop(open);
}

/// Profilers, shells and language runtimes get signals all the time, and few programs continue
/// after a failed listing.
#[apply(promise)]
fn a_caught_signal_does_not_end_a_listing() {
    let content = Memory::new();
    for number in 0..3_000 {
        content.file(&format!("dir/{number}"), Vec::new());
    }
    let mounted = Mounted::of(&content);
    catch_without_restart(libc::SIGUSR2);
    let dir = mounted.at("dir");
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let lists = scope.spawn(|| {
            let tell = tell;
            // SAFETY: names the calling thread.
            tell.send(unsafe { libc::pthread_self() }).unwrap();
            for round in 0..20 {
                // A changed directory is listed again by the daemon.
                content.file(&format!("dir/new-{round}"), Vec::new());
                mounted.publish();
                let listed = fs::read_dir(&dir).map(|names| names.collect::<Result<Vec<_>, _>>());
                assert!(listed.unwrap().unwrap().len() >= 3_000);
            }
        });
        let thread = told.recv().unwrap();
        // Send signals until the other end is gone.
        let pace = Duration::from_micros(200);
        while told.recv_timeout(pace) == Err(RecvTimeoutError::Timeout) {
            // SAFETY: the thread is not joined yet.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR2) };
        }
        lists.join().unwrap();
    });
}
