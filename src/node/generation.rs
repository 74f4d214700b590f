//! What tells one life of a node from the next: its number, and the chance in what it does. Owns
//! no state.

use rand::TryRng;
use rand::rngs::SysRng;

use super::persist::unix_now_s;
use crate::id::Generation;

/// A life later than the last one, also when the store or the clock went back a little.
pub(super) fn next_generation(last: Generation) -> Generation {
    let now = unix_now_s();
    Generation(now.max(last.0 + 1))
}

/// From the operating system. What has no randomness has no keys either: the start has failed
/// before.
pub(super) fn random_seed() -> u64 {
    SysRng
        .try_next_u64()
        .expect("the system gave random bytes for the keys a moment ago")
}
