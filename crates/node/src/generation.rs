//! Chooses the generation and the random seed of a node that starts. Owns no state.

use rand::TryRng;
use rand::rngs::SysRng;

use super::persist::unix_now_s;
use p2pfs_membership::GENERATION_AHEAD_MAX_S;
use p2pfs_types::id::Generation;

/// Returns the generation of the run of the node that begins now.
pub(super) fn next_generation(last: Generation) -> Generation {
    begun_at(unix_now_s(), last)
}

/// Returns the generation of a run of the node that begins at `now_s`: that time, or `last` plus 1
/// if that is higher. So it is higher than `last`, even if the clock went back.
///
/// If `last` is more than a day ahead of the clock, it came from a wrong clock. Nodes with a right
/// clock refuse it, and would refuse its successors until that day. Then `last` is ignored, and the
/// generation may be lower.
fn begun_at(now_s: u64, last: Generation) -> Generation {
    if last.0 > now_s.saturating_add(GENERATION_AHEAD_MAX_S) {
        Generation(now_s)
    } else {
        Generation(now_s.max(last.0 + 1))
    }
}

/// Returns a random number from the operating system. Without randomness the node has no keys, and
/// the start has failed before.
pub(super) fn random_seed() -> u64 {
    SysRng
        .try_next_u64()
        .expect("the system gave random bytes for the keys a moment ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_exceeds_the_last_one_even_after_the_clock_went_back() {
        let now = 1_000_000;
        let begun = |last| begun_at(now, Generation(last)).0;
        assert_eq!(begun(0), now);
        assert_eq!(begun(now), now + 1);
        assert_eq!(
            begun(now + GENERATION_AHEAD_MAX_S),
            now + GENERATION_AHEAD_MAX_S + 1
        );
    }

    #[test]
    fn a_start_far_in_the_future_excludes_no_node_once_the_clock_is_right() {
        let now = 1_000_000;
        let ahead = Generation(now + GENERATION_AHEAD_MAX_S + 1);
        assert_eq!(begun_at(now, ahead), Generation(now));
        assert_eq!(begun_at(now, Generation(u64::MAX)), Generation(now));
    }
}
