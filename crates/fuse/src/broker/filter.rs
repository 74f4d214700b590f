//! System call filter of the mount broker. It allows mounting and unmounting, registering backing
//! files, passing messages, opening files and creating directories. It forbids starting programs,
//! opening connections, changing identity, loading code, tracing other processes and sending them
//! signals.
//!
//! A filter cannot see paths. An attacker that controls the broker can therefore still mount and
//! open anything that root may, with any flags. The unit `packaging/p2pfs-broker.service` limits
//! what is reachable this way.

use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::mounting::backing::{BACKING_CLOSE, BACKING_OPEN};

/// System calls allowed without conditions: memory, waiting, the identity of this process, messages
/// on open sockets and pairs of them, file status and ACLs, opening files with any flags, creating directories, and mounting.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_getxattr,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_memfd_create,
    libc::SYS_mkdirat,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_socketpair,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_umount2,
    libc::SYS_write,
    libc::SYS_writev,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// Allowed fcntl commands: descriptor flags and duplication. Not the target or number of signals
/// (F_SETOWN, F_SETSIG).
const FCNTL_ALLOWED: [libc::c_int; 5] = [
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
];

/// Confines this process and all its threads permanently. A forbidden call fails with EPERM.
///
/// # Errors
/// If the kernel has no seccomp filters, or if there is none for this processor.
pub(super) fn confine() -> io::Result<()> {
    let permission = SeccompAction::Errno(libc::EPERM as u32);
    let mut rules: Vec<(i64, Vec<SeccompRule>)> = ALLOWED.iter().map(|it| (*it, vec![])).collect();
    let code = |code| argument(1, SeccompCmpOp::Eq, code);
    rules.push((
        libc::SYS_ioctl,
        vec![code(BACKING_OPEN)?, code(BACKING_CLOSE)?],
    ));
    let of_descriptors = FCNTL_ALLOWED.map(|it| code(it as u64));
    let of_descriptors: io::Result<Vec<_>> = of_descriptors.into_iter().collect();
    rules.push((libc::SYS_fcntl, of_descriptors?));
    // abort(3) sends a signal to its own process; this process never forks.
    let itself = argument(0, SeccompCmpOp::Eq, std::process::id().into())?;
    rules.push((libc::SYS_tgkill, vec![itself]));
    // Threads, which probe a stale mount, but no processes.
    let threads = libc::CLONE_THREAD as u64;
    let thread = argument(0, SeccompCmpOp::MaskedEq(threads), threads)?;
    rules.push((libc::SYS_clone, vec![thread]));
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let executable = libc::PROT_EXEC as u64;
        rules.push((
            call,
            vec![argument(2, SeccompCmpOp::MaskedEq(executable), 0)?],
        ));
    }
    // The flags of clone3 are behind a pointer, which a filter cannot read. With ENOSYS the C
    // library uses clone.
    let absent = SeccompAction::Errno(libc::ENOSYS as u32);
    apply(
        vec![(libc::SYS_clone3, vec![])],
        SeccompAction::Allow,
        absent,
    )?;
    apply(rules, permission, SeccompAction::Allow)
}

/// Returns a rule on one argument.
fn argument(number: u8, is: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(number, SeccompCmpArgLen::Qword, is, value);
    let rule = condition.and_then(|condition| SeccompRule::new(vec![condition]));
    rule.map_err(io::Error::other)
}

fn apply(
    rules: Vec<(i64, Vec<SeccompRule>)>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> io::Result<()> {
    let processor = std::env::consts::ARCH
        .try_into()
        .map_err(io::Error::other)?;
    let rules = rules.into_iter().collect();
    let filter = SeccompFilter::new(rules, otherwise, matched, processor);
    let program: BpfProgram = filter
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
