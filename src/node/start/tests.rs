//! Tests of `start`.

use super::*;
use crate::node::checks::EARLIEST_UNIX_S;

#[test]
fn a_generation_is_always_later_than_the_last() {
    let far = Generation(u64::MAX / 2);
    assert_eq!(next_generation(far), Generation(far.0 + 1));
    assert!(next_generation(Generation(0)).0 > EARLIEST_UNIX_S / 2);
}
