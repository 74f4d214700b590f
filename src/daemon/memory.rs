//! What the allocator keeps of the memory: few heaps, and what a large job left goes back.
//!
//! A share that is walked, or a log that goes from node to node, takes and frees memory on many
//! threads. By default glibc gives nearly each of them a heap, and holds what is free between what
//! stays: of 100,000 names that was a third of the daemon.
//!
//! What goes from node to node is in pieces of up to 1 MiB; the largest have places of their own
//! (`super::pieces`). The others glibc soon gives back to the kernel, which clears each page of the
//! next again: a fifth of what serving took. So some are kept for as long as there is more to
//! move. (`malloc_trim` leaves the end of every heap but the first: of the second as much may
//! stay.)

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use tokio::task::spawn_blocking;

use super::pieces;

/// Heaps for all threads. Small pieces are taken from each thread's own store first, so that
/// threads hardly meet here.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;
/// Where as much is free at the end of a heap it goes back: pieces that wait for one peer, and some
/// for others.
#[cfg(target_env = "gnu")]
const GIVEN_BACK_BYTES: libc::c_int = 8 << 20;
/// What is larger than any piece is taken from the kernel by itself, and goes back at once. It has
/// to be said where the other is: glibc no longer finds either by itself then.
#[cfg(target_env = "gnu")]
const MAPPED_MIN_BYTES: libc::c_int = 4 << 20;
/// So many names more or less were a large job.
const MANY_NAMES: u64 = 5_000;
/// So many bytes of logs that others were given were one too: some ten thousand names.
const MANY_TOLD_BYTES: u64 = 1 << 20;
/// And so many bytes of files that came or went.
const MANY_MOVED_BYTES: u64 = 16 << 20;
/// It is over when it has stayed for so many looks, one a second.
const QUIET_LOOKS: u32 = 10;

/// To be called before there are threads.
pub(super) fn set_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: each sets a number in the allocator, which any thread may do at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        // 32-bit systems have smaller heaps, and glibc refuses
        if libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_MIN_BYTES) == 1 {
            libc::mallopt(libc::M_TRIM_THRESHOLD, GIVEN_BACK_BYTES);
        }
    }
}

/// Follows the jobs that take much memory.
pub(super) struct Memory {
    names: Jobs,
    told: Jobs,
    moved: Jobs,
}

/// What has been done since the start.
#[derive(Clone, Copy, Default)]
pub(super) struct Done {
    /// Names that there are now.
    pub names: u64,
    /// Bytes of logs that others were given.
    pub told_bytes: u64,
    /// Bytes of files that came or went.
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
    /// Looks again; gives free memory back where a large job has ended.
    pub(super) async fn look(&mut self, done: Done) {
        pieces::look();
        if self.is_due(done) {
            // A task that cannot be waited for ends with the process.
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

/// Jobs of one kind, by a number that each changes.
struct Jobs {
    /// By so much a large one does.
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

    /// Whether a large one has ended: once.
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
    // SAFETY: it gives whole free pages back to the kernel, and may run beside all else.
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
    fn memory_is_given_back_once_when_many_names_came_and_no_more_come() {
        let mut memory = Memory::default();
        let coming: Vec<u64> = (0..100).map(|second| second * 1000).collect();
        assert!(due_after(&mut memory, &coming).is_empty());
        assert_eq!(due_after(&mut memory, &[100_000; 30]), [10]);
        assert_eq!(due_after(&mut memory, &[0; 30]), [10], "and when they went");
    }

    #[test]
    fn memory_is_given_back_when_another_node_was_told_many_names() {
        let mut memory = Memory::default();
        let telling = (0..60).map(|second| told(second.min(30) * MANY_TOLD_BYTES));
        assert_eq!(due_at(&mut memory, telling), [40]);
        let little = (0..60).map(|second| told(30 * MANY_TOLD_BYTES + second / 20));
        assert!(due_at(&mut memory, little).is_empty());
    }

    #[test]
    fn memory_is_given_back_when_large_files_have_come_and_not_between_their_pieces() {
        let mut memory = Memory::default();
        let coming = (0..60).map(|second| moved(second.min(30) * MANY_MOVED_BYTES));
        assert_eq!(due_at(&mut memory, coming), [40]);
        let small = (0..60).map(|second| moved(30 * MANY_MOVED_BYTES + second.min(9) * 100_000));
        assert!(due_at(&mut memory, small).is_empty());
    }

    #[test]
    fn who_goes_on_moving_files_is_given_the_memory_of_names_that_went() {
        let mut memory = Memory::default();
        assert_eq!(due_after(&mut memory, &[100_000; 30]), [10]);
        let looks = (0..60).map(|second| moved(second * MANY_MOVED_BYTES));
        assert_eq!(due_at(&mut memory, looks), [10]);
    }

    #[test]
    fn a_few_names_that_come_and_go_are_no_large_job() {
        let mut memory = Memory::default();
        let few: Vec<u64> = (0..1000).map(|second| (second / 20) % 2 * 4999).collect();
        assert!(due_after(&mut memory, &few).is_empty());
    }
}
