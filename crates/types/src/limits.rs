//! The limits of this crate on input from outside, as p2pfs(8) lists them.

use crate::limit::{Limit, LimitTests, LimitValue};

/// Every limit of this crate, in the order of their names.
pub const LIMITS: &[Limit] = &[Limit {
    name: "types::offences::OFFENDERS_MAX",
    value: LimitValue::Count(crate::offences::OFFENDERS_MAX as u64),
    text: "offenders that are remembered.",
    tests: LimitTests::By(&[
        "crates/types/src/offences.rs ever_new_names_are_bounded_told_seldom_and_push_no_proven_offender_out",
        "crates/types/src/offences.rs an_offender_that_was_quiet_for_a_day_is_the_first_to_be_forgotten",
    ]),
}];
