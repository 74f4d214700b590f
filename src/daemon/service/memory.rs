//! Tuning of the allocator: few heaps, and the memory of large jobs is returned to the kernel.
//!
//! A scan of a share, or a log that is sent between nodes, allocates and frees memory on many
//! threads. By default glibc gives nearly each thread its own heap, and retains free memory between
//! live allocations. With 100,000 names that was a third of the daemon's memory.
//!
//! Data between nodes moves in pieces of up to 1 MiB; the largest pieces have a pool of their own
//! (`p2pfs_types::pool`). glibc soon returns the memory of the smaller pieces to the kernel, which
//! must then clear each page of the next allocation. That was a fifth of the cost of serving. So
//! some memory is retained while a transfer continues. (`malloc_trim` does not trim the end of any
//! heap except the first, so the second heap may retain as much.)

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use tokio::task::spawn_blocking;

/// Number of heaps for all threads. Small allocations come from a cache of each thread first, so
/// threads rarely contend for a heap.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;
/// Number of free bytes at the end of a heap beyond which glibc returns them to the kernel. This is
/// room for the pieces that wait for one peer, and for some of other peers.
#[cfg(target_env = "gnu")]
const GIVEN_BACK_BYTES: libc::c_int = 8 << 20;
/// Size from which glibc maps an allocation by itself, and unmaps it when it is freed: more than
/// any piece. It must be set together with the threshold for trimming, because setting either one
/// disables glibc's adjustment of both.
#[cfg(target_env = "gnu")]
const MAPPED_MIN_BYTES: libc::c_int = 4 << 20;
/// Change in the number of names that counts as a large job.
const MANY_NAMES: u64 = 5_000;
/// Bytes of logs sent to other nodes that count as a large job: some ten thousand names.
const MANY_TOLD_BYTES: u64 = 1 << 20;
/// Bytes of files sent or received that count as a large job.
const MANY_MOVED_BYTES: u64 = 16 << 20;
/// Number of checks, one a second, without a change of the counter after which a job has ended.
const QUIET_LOOKS: u32 = 10;

/// Configures the heaps. Call it before there are threads.
pub(super) fn set_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: each call sets a number in the allocator, which any thread may do at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        // 32-bit systems have smaller heaps, and glibc refuses this threshold there.
        if libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_MIN_BYTES) == 1 {
            libc::mallopt(libc::M_TRIM_THRESHOLD, GIVEN_BACK_BYTES);
        }
    }
}

/// Detects the end of jobs that take much memory.
pub(super) struct Memory {
    names: Jobs,
    told: Jobs,
    moved: Jobs,
}

/// Values that change while large jobs run. The bytes are counted since the start.
#[derive(Clone, Copy, Default)]
pub(super) struct Done {
    /// Current number of names.
    pub names: u64,
    /// Bytes of logs sent to other nodes.
    pub told_bytes: u64,
    /// Bytes of files sent or received.
    pub moved_bytes: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            names: Jobs::of(MANY_NAMES),
            told: Jobs::of(MANY_TOLD_BYTES),
            moved: Jobs::of(MANY_MOVED_BYTES),
        }
    }
}

impl Memory {
    /// Checks the counters, and returns free memory to the kernel if a large job has ended.
    pub(super) async fn look(&mut self, done: Done) {
        if self.is_due(done) {
            // If the task cannot be awaited, the process is ending.
            let _ended = spawn_blocking(give_back).await;
        }
    }

    fn is_due(&mut self, done: Done) -> bool {
        let ended = [
            self.names.ended(done.names),
            self.told.ended(done.told_bytes),
            self.moved.ended(done.moved_bytes),
        ];
        ended.contains(&true)
    }
}

/// Jobs of one kind, detected by one counter.
struct Jobs {
    /// Change of the counter that counts as a large job.
    large: u64,
    tidied_at: u64,
    done: u64,
    quiet: u32,
}

impl Jobs {
    fn of(large: u64) -> Self {
        Self {
            large,
            tidied_at: 0,
            done: 0,
            quiet: 0,
        }
    }

    /// Returns `true` once when a large job has ended.
    fn ended(&mut self, done: u64) -> bool {
        if done.abs_diff(self.tidied_at) < self.large || done != self.done {
            self.done = done;
            self.quiet = 0;
            return false;
        }
        self.quiet += 1;
        let due = self.quiet == QUIET_LOOKS;
        if due {
            self.tidied_at = done;
        }
        due
    }
}

fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it returns free pages to the kernel, and may run at the same time as any other code.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_at(memory: &mut Memory, looks: impl Iterator<Item = Done>) -> Vec<usize> {
        let due = |(at, done)| memory.is_due(done).then_some(at);
        looks.enumerate().filter_map(due).collect()
    }

    fn due_after(memory: &mut Memory, looks: &[u64]) -> Vec<usize> {
        let named = |names: &u64| Done {
            names: *names,
            ..Done::default()
        };
        due_at(memory, looks.iter().map(named))
    }

    fn told(told_bytes: u64) -> Done {
        Done {
            names: 7,
            told_bytes,
            moved_bytes: 0,
        }
    }

    fn moved(moved_bytes: u64) -> Done {
        Done {
            names: 7,
            told_bytes: 0,
            moved_bytes,
        }
    }

    #[test]
    fn memory_is_returned_once_after_many_names_arrived() {
        let mut memory = Memory::default();
        let coming: Vec<u64> = (0..100).map(|second| second * 1000).collect();
        assert!(due_after(&mut memory, &coming).is_empty());
        assert_eq!(due_after(&mut memory, &[100_000; 30]), [10]);
        assert_eq!(due_after(&mut memory, &[0; 30]), [10], "and when they went");
    }

    #[test]
    fn memory_is_returned_after_another_node_was_sent_many_names() {
        let mut memory = Memory::default();
        let telling = (0..60).map(|second| told(second.min(30) * MANY_TOLD_BYTES));
        assert_eq!(due_at(&mut memory, telling), [40]);
        let little = (0..60).map(|second| told(30 * MANY_TOLD_BYTES + second / 20));
        assert!(due_at(&mut memory, little).is_empty());
    }

    #[test]
    fn memory_is_returned_after_large_files_and_not_between_their_pieces() {
        let mut memory = Memory::default();
        let coming = (0..60).map(|second| moved(second.min(30) * MANY_MOVED_BYTES));
        assert_eq!(due_at(&mut memory, coming), [40]);
        let small = (0..60).map(|second| moved(30 * MANY_MOVED_BYTES + second.min(9) * 100_000));
        assert!(due_at(&mut memory, small).is_empty());
    }

    #[test]
    fn memory_of_departed_names_is_returned_during_continuous_transfers() {
        let mut memory = Memory::default();
        assert_eq!(due_after(&mut memory, &[100_000; 30]), [10]);
        let looks = (0..60).map(|second| moved(second * MANY_MOVED_BYTES));
        assert_eq!(due_at(&mut memory, looks), [10]);
    }

    #[test]
    fn a_few_changing_names_are_not_a_large_job() {
        let mut memory = Memory::default();
        let few: Vec<u64> = (0..1000).map(|second| (second / 20) % 2 * 4999).collect();
        assert!(due_after(&mut memory, &few).is_empty());
    }
}
