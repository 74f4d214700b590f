//! Read budgets: they slow only the named programs, and a program that waits for its budget can be
//! ended.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::process::Command;
use std::time::Instant;
use std::{fs, io, thread};

use macro_rules_attribute::apply;

use super::{MIB, NEEDS, SECOND, own_name, world};
use crate::support::content::noise;
use crate::support::process::*;
use crate::support::promise::promise;

#[apply(promise)]
#[takes("cat")]
fn a_budget_is_respected_and_slows_no_other_program() {
    let world = world();
    let bytes = noise(5, 5 * MIB);
    let path = world.share("budget.bin", &bytes);
    let other = world.share("no-budget.bin", &noise(6, 2 * MIB));
    let program = world.program("slow-reader");
    world.set_budget("slow-reader", MIB as u64 / 8);
    let mut slow = start(Command::new(&program).arg(&path));
    world.wait_for_delay(slow.pid());
    // Other programs are served meanwhile, from another file and from this one.
    assert!(run(Command::new("cat").arg(&other)).status.success());
    assert!(slow.is_running(), "a file of 5 MiB at 128 KiB/s takes 40 s");
    let first_part = fs::File::open(&path).unwrap();
    let mut part = vec![0; MIB];
    io::Read::read_exact(&mut &first_part, &mut part).unwrap();
    assert!(
        part == bytes[..MIB],
        "the same file, to one without a budget"
    );
    drop(first_part);
    world.set_budget("slow-reader", MIB as u64);
    let finished = slow.finish(HANG_LIMIT);
    assert!(
        finished.stdout == bytes,
        "slow, and right: {}",
        finished.stderr
    );
    // A cached file is not slowed.
    world.set_budget("slow-reader", 64 << 10);
    let again = start(Command::new(&program).arg(&path));
    assert!(again.finish(HANG_LIMIT).stdout == bytes);
    world.configure("");
}

#[apply(promise)]
#[takes("cat")]
fn a_read_that_waits_for_its_budget_is_not_an_error_and_can_be_interrupted() {
    let world = world();
    let program = world.program("slowest-reader");
    world.set_budget("slowest-reader", 64 << 10);
    // A read of 128 KiB waits at least 2 s, which is the read deadline.
    let bytes = noise(7, 448 << 10);
    let path = world.share("delayed.bin", &bytes);
    let begun = Instant::now();
    let finished = start(Command::new(&program).arg(&path)).finish(HANG_LIMIT);
    assert!(finished.stdout == bytes, "{}", finished.stderr);
    assert!(
        begun.elapsed() > 3 * SECOND,
        "448 KiB in {:?}",
        begun.elapsed()
    );
    let path = world.share("never-read.bin", &noise(8, 4 * MIB));
    let slow = start(Command::new(&program).arg(&path));
    world.wait_for_delay(slow.pid());
    slow.signal(libc::SIGINT);
    let begun = Instant::now();
    slow.finish(HANG_LIMIT);
    assert!(
        begun.elapsed() < SECOND,
        "{:?} after Ctrl-C",
        begun.elapsed()
    );
    world.configure("");
}

extern "C" fn note_signal(_: libc::c_int) {}

#[apply(promise)]
#[takes("dd")]
fn a_caught_signal_does_not_end_a_wait_for_a_budget_and_a_fatal_one_does() {
    let world = world();
    // The reader is a thread of this test. A signal interrupts its call, and the call is not
    // restarted.
    world.set_budget(&own_name(), 64 << 10);
    let bytes = noise(9, MIB);
    let path = world.share("signals.bin", &bytes);
    let pid = std::process::id();
    // SAFETY: the handler does nothing, and the struct is plain numbers.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note_signal as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            // SAFETY: the call takes no argument and returns this thread.
            tell.send(unsafe { libc::pthread_self() }).unwrap();
            let file = fs::File::open(&path)?;
            let mut buffer = vec![0; 192 << 10];
            let first = io::Read::read(&mut &file, &mut buffer)?;
            let second = io::Read::read(&mut &file, &mut buffer)?;
            io::Result::Ok((first, second, buffer))
        });
        let thread = told.recv().unwrap();
        world.wait_for_delay(pid);
        for _ in 0..3 {
            // SAFETY: the thread is joined only later.
            unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
        }
        let (first, second, buffer) = reading.join().unwrap().unwrap();
        assert_eq!((first, second), (192 << 10, 192 << 10));
        assert!(buffer == bytes[first..first + second]);
    });
    // A program that catches one signal is still ended by another.
    let program = world.cluster.folder.path().join("slow-dd");
    copy_program("/bin/dd", &program);
    world.set_budget("slow-dd", 64 << 10);
    let path = world.share("signals-too.bin", &noise(10, 4 * MIB));
    let from = format!("if={}", path.display());
    let mut slow = start(Command::new(&program).args([&from, "of=/dev/null", "bs=1M"]));
    world.wait_for_delay(slow.pid());
    slow.signal(libc::SIGUSR1);
    world.wait_for_delay(slow.pid());
    assert!(slow.is_running());
    slow.signal(libc::SIGTERM);
    let begun = Instant::now();
    slow.finish(HANG_LIMIT);
    assert!(
        begun.elapsed() < SECOND,
        "{:?} after SIGTERM",
        begun.elapsed()
    );
    world.configure("");
}
