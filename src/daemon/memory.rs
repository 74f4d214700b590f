//! What the allocator keeps of the memory: few heaps, and what a large job left goes back.
//!
//! A share that is walked, or a log that goes from node to node, takes and frees memory on many
//! threads. By default glibc gives nearly each of them a heap, and holds what is free between what
//! stays: of 100,000 names that was a third of the daemon.

use tokio::task::spawn_blocking;

/// Heaps for all threads. Small pieces are taken from each thread's own store first, and large
/// ones from the kernel, so that threads hardly meet here.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;
/// So many names more or less were a large job.
const MANY_NAMES: u64 = 5_000;
/// So many bytes of logs that others were given were one too: some ten thousand names.
const MANY_TOLD_BYTES: u64 = 1 << 20;
/// It is over when both have stayed for so many looks, one a second.
const QUIET_LOOKS: u32 = 10;

/// To be called before there are threads.
pub(super) fn use_few_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number in the allocator, which any thread may do at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Follows how many names there are, and how much of them others were told.
#[derive(Default)]
pub(super) struct Memory {
    tidied_at: Work,
    done: Work,
    quiet: u32,
}

/// What large jobs are made of.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Work {
    names: u64,
    told_bytes: u64,
}

impl Work {
    fn is_large_since(self, before: Self) -> bool {
        self.names.abs_diff(before.names) >= MANY_NAMES
            || self.told_bytes.abs_diff(before.told_bytes) >= MANY_TOLD_BYTES
    }
}

impl Memory {
    /// Looks again; gives free memory back where a large job has ended.
    pub(super) async fn look(&mut self, names: u64, told_bytes: u64) {
        if self.is_due(Work { names, told_bytes }) {
            // A task that cannot be waited for ends with the process.
            let _ended = spawn_blocking(give_back).await;
        }
    }

    fn is_due(&mut self, done: Work) -> bool {
        if !done.is_large_since(self.tidied_at) || done != self.done {
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

    fn due_at(memory: &mut Memory, looks: impl Iterator<Item = (u64, u64)>) -> Vec<usize> {
        let due = |(at, (names, told_bytes))| {
            let done = Work { names, told_bytes };
            memory.is_due(done).then_some(at)
        };
        looks.enumerate().filter_map(due).collect()
    }

    fn due_after(memory: &mut Memory, looks: &[u64]) -> Vec<usize> {
        due_at(memory, looks.iter().map(|names| (*names, 0)))
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
        let telling = (0..60).map(|second| (7, second.min(30) * MANY_TOLD_BYTES));
        assert_eq!(due_at(&mut memory, telling), [40]);
        let little = (0..60).map(|second| (7, 30 * MANY_TOLD_BYTES + second / 20));
        assert!(due_at(&mut memory, little).is_empty());
    }

    #[test]
    fn a_few_names_that_come_and_go_are_no_large_job() {
        let mut memory = Memory::default();
        let few: Vec<u64> = (0..1000).map(|second| (second / 20) % 2 * 4999).collect();
        assert!(due_after(&mut memory, &few).is_empty());
    }
}
