//! Tests of the forbidden system calls.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::process::Command;

use super::*;

/// Command that sets the signal of a descriptor; the crate has no name for it.
const F_SETSIG: libc::c_int = 10;

fn errno(outcome: libc::c_long) -> i32 {
    match outcome {
        0.. => 0,
        _ => io::Error::last_os_error().raw_os_error().unwrap_or(0),
    }
}

/// Returns the error of each forbidden call after confinement.
fn forbidden() -> Vec<(&'static str, i32)> {
    let null = std::ptr::null::<libc::c_void>();
    // SAFETY: each call either fails before it reads its arguments, or takes no pointers.
    let outcomes = unsafe {
        [
            (
                "socket",
                libc::syscall(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
            ),
            ("connect", libc::syscall(libc::SYS_connect, 0, null, 0)),
            ("execve", libc::syscall(libc::SYS_execve, null, null, null)),
            (
                "clone",
                libc::syscall(libc::SYS_clone, libc::SIGCHLD, null, null, null, null),
            ),
            ("ptrace", libc::syscall(libc::SYS_ptrace, 0, 0, null, null)),
            ("setuid", libc::syscall(libc::SYS_setuid, 0)),
            (
                "unshare",
                libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS),
            ),
            ("setns", libc::syscall(libc::SYS_setns, 0, 0)),
            ("chroot", libc::syscall(libc::SYS_chroot, null)),
            (
                "pivot_root",
                libc::syscall(libc::SYS_pivot_root, null, null),
            ),
            (
                "init_module",
                libc::syscall(libc::SYS_init_module, null, 0, null),
            ),
            ("bpf", libc::syscall(libc::SYS_bpf, 0, null, 0)),
            (
                "open_by_handle_at",
                libc::syscall(libc::SYS_open_by_handle_at, 0, null, 0),
            ),
            ("unlinkat", libc::syscall(libc::SYS_unlinkat, -1, null, 0)),
            ("fchmodat", libc::syscall(libc::SYS_fchmodat, -1, null, 0)),
            (
                "ioctl TIOCSTI",
                libc::syscall(libc::SYS_ioctl, 0, libc::TIOCSTI, null),
            ),
            (
                "executable memory",
                libc::syscall(
                    libc::SYS_mmap,
                    null,
                    4096,
                    libc::PROT_READ | libc::PROT_EXEC,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                ),
            ),
        ]
        .map(|(name, outcome)| (name, errno(outcome)))
    };
    outcomes.to_vec()
}

/// Returns the error of each way to send a signal to another process.
fn signals() -> Vec<(&'static str, i32)> {
    let null = std::ptr::null::<libc::c_void>();
    // SAFETY: signal 0 is none, and calls with a pointer fail before they read it.
    let outcomes = unsafe {
        [
            ("kill", libc::syscall(libc::SYS_kill, 1, 0)),
            ("tgkill", libc::syscall(libc::SYS_tgkill, 1, 1, 0)),
            ("tkill", libc::syscall(libc::SYS_tkill, 1, 0)),
            (
                "rt_sigqueueinfo",
                libc::syscall(libc::SYS_rt_sigqueueinfo, 1, 0, null),
            ),
            (
                "pidfd_send_signal",
                libc::syscall(libc::SYS_pidfd_send_signal, 0, 0, null, 0),
            ),
            (
                "fcntl F_SETOWN",
                libc::syscall(libc::SYS_fcntl, 0, libc::F_SETOWN, 1),
            ),
            (
                "fcntl F_SETSIG",
                libc::syscall(libc::SYS_fcntl, 0, F_SETSIG, libc::SIGKILL),
            ),
        ]
        .map(|(name, outcome)| (name, errno(outcome)))
    };
    outcomes.to_vec()
}

/// Tries forbidden and allowed calls in a separate process.
#[test]
#[ignore = "the test below runs it in a process of its own"]
fn tries_everything() {
    confine().unwrap();
    for (name, errno) in forbidden().into_iter().chain(signals()) {
        assert_eq!(errno, libc::EPERM, "{name}");
    }
    std::thread::spawn(|| ())
        .join()
        .expect("threads can be started");
    let itself = std::process::id();
    // SAFETY: takes only numbers; signal 0 is none.
    let to_itself = unsafe { libc::syscall(libc::SYS_tgkill, itself, libc::gettid(), 0) };
    assert_eq!(errno(to_itself), 0, "abort(3) must end the process");
    assert!(std::fs::read("/proc/self/mountinfo").is_ok());
    // The error for a missing device looks for its cause with several calls.
    let missing = std::io::ErrorKind::NotFound.into();
    assert!(!crate::mounting::device_remedy(&missing).is_empty());
    let nowhere = std::path::Path::new("/nonexistent");
    let unmounted = rustix::mount::unmount(nowhere, rustix::mount::UnmountFlags::DETACH);
    assert_ne!(unmounted, Ok(()));
    let flags = rustix::mount::FsPickFlags::empty();
    let picked = rustix::mount::fspick(rustix::fs::CWD, nowhere, flags).map(drop);
    assert_eq!(picked, Err(rustix::io::Errno::NOENT));
    let open = rustix::mount::FsOpenFlags::empty();
    let opened = rustix::mount::fsopen("nonexistent", open).map(drop);
    assert_eq!(opened, Err(rustix::io::Errno::NODEV));
}

#[test]
fn the_broker_cannot_start_connect_signal_or_change_identity() {
    let ran = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--ignored",
            "broker::filter::tests::tries_everything",
        ])
        .arg("--test-threads=1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}
