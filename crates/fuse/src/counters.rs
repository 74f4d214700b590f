//! Counters of operations by kind, with their latencies.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::abi::opcode;

/// Operations with their own counter; all others count as "other".
const OPERATIONS: [(u32, &str); 28] = [
    (opcode::LOOKUP, "lookup"),
    (opcode::GETATTR, "getattr"),
    (opcode::OPEN, "open"),
    (opcode::READ, "read"),
    (opcode::STATFS, "statfs"),
    (opcode::RELEASE, "release"),
    (opcode::GETXATTR, "getxattr"),
    (opcode::LISTXATTR, "listxattr"),
    (opcode::FLUSH, "flush"),
    (opcode::OPENDIR, "opendir"),
    (opcode::READDIR, "readdir"),
    (opcode::READDIRPLUS, "readdirplus"),
    (opcode::RELEASEDIR, "releasedir"),
    (opcode::LSEEK, "lseek"),
    (opcode::INIT, "init"),
    (opcode::CREATE, "create"),
    (opcode::MKNOD, "mknod"),
    (opcode::MKDIR, "mkdir"),
    (opcode::SYMLINK, "symlink"),
    (opcode::UNLINK, "unlink"),
    (opcode::RMDIR, "rmdir"),
    (opcode::RENAME, "rename"),
    (opcode::RENAME2, "rename2"),
    (opcode::SETATTR, "setattr"),
    (opcode::WRITE, "write"),
    (opcode::FALLOCATE, "fallocate"),
    (opcode::FSYNC, "fsync"),
    (opcode::FSYNCDIR, "fsyncdir"),
];
const OTHER: usize = OPERATIONS.len();
/// Number of latency buckets, which are powers of two of a microsecond. The last bucket begins at
/// 2^22 µs, about 4 s.
pub const LATENCY_BUCKETS: usize = 24;

/// Counters of one mount since this process began to serve it.
#[derive(Default)]
pub(super) struct Counters {
    operations: [Operation; OTHER + 1],
    read_bytes: AtomicU64,
    expired: AtomicU64,
}

#[derive(Default)]
struct Operation {
    errors: AtomicU64,
    longest_us: AtomicU64,
    latencies: [AtomicU64; LATENCY_BUCKETS],
}

/// Counters of one kind of operation since this process began to serve the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationCount {
    /// FUSE name in lower case.
    pub name: &'static str,
    /// Number of answered operations.
    pub count: u64,
    /// Number of answers with an error.
    pub errors: u64,
    /// Longest time from the request of the kernel to the answer, in microseconds.
    pub longest_us: u64,
    /// Number of operations by latency bucket n: at least 2^(n-1) µs and less than 2^n µs.
    pub latencies: [u64; LATENCY_BUCKETS],
}

/// Activity of a mount since this process began to serve it, and its current state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Kinds of operations that occurred.
    pub operations: Vec<OperationCount>,
    /// Bytes returned to readers. Bytes that the kernel reads by passthrough are not known.
    pub read_bytes: u64,
    /// Requests that the device answered at their deadline.
    pub expired: u64,
    /// Requests that wait for their answer now.
    pub waiting: u64,
    /// Inodes that the kernel knows.
    pub inodes: u64,
    /// Open files. The kernel opens directories without the daemon.
    pub handles: u64,
}

impl Counters {
    /// Counts an answered operation.
    pub(crate) fn record(&self, opcode: u32, took: Duration, is_error: bool) {
        let known = OPERATIONS.iter().position(|(code, _)| *code == opcode);
        let operation = &self.operations[known.unwrap_or(OTHER)];
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        operation
            .errors
            .fetch_add(u64::from(is_error), Ordering::Relaxed);
        operation.longest_us.fetch_max(took_us, Ordering::Relaxed);
        operation.latencies[bucket(took_us)].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes returned to a reader.
    pub(crate) fn record_bytes(&self, length_bytes: usize) {
        self.read_bytes
            .fetch_add(length_bytes as u64, Ordering::Relaxed);
    }

    /// Counts a request that was answered at its deadline.
    pub(crate) fn record_expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counters. The caller adds the current state.
    pub(crate) fn activity(&self) -> Activity {
        let names = OPERATIONS.iter().map(|(_, name)| *name).chain(["other"]);
        let counts = names
            .zip(&self.operations)
            .map(|(name, operation)| operation.count(name));
        Activity {
            operations: counts.filter(|operation| operation.count > 0).collect(),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
            ..Activity::default()
        }
    }
}

impl Operation {
    fn count(&self, name: &'static str) -> OperationCount {
        let latencies = std::array::from_fn(|n| self.latencies[n].load(Ordering::Relaxed));
        OperationCount {
            name,
            count: latencies.iter().sum(),
            errors: self.errors.load(Ordering::Relaxed),
            longest_us: self.longest_us.load(Ordering::Relaxed),
            latencies,
        }
    }
}

fn bucket(took_us: u64) -> usize {
    ((u64::BITS - took_us.leading_zeros()) as usize).min(LATENCY_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_by_kind_with_their_latency() {
        let counters = Counters::default();
        counters.record(opcode::READ, Duration::from_micros(3), false);
        counters.record(opcode::READ, Duration::from_secs(100), true);
        counters.record(9999, Duration::ZERO, false);
        counters.record_bytes(10);
        let activity = counters.activity();
        let names: Vec<&str> = activity.operations.iter().map(|it| it.name).collect();
        assert_eq!(names, ["read", "other"]);
        let read = &activity.operations[0];
        assert_eq!(
            (read.count, read.errors, read.longest_us),
            (2, 1, 100_000_000)
        );
        assert_eq!(
            (read.latencies[2], read.latencies[LATENCY_BUCKETS - 1]),
            (1, 1)
        );
        assert_eq!(activity.read_bytes, 10);
    }
}
