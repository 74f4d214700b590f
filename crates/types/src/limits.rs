//! The limits of this crate on input from outside, as p2pfs(8) lists them.

use crate::limit::{Limit, LimitTests, LimitValue};

/// Every limit of this crate, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "types::file_name::SENT_NAME_MAX_BYTES",
        value: LimitValue::Bytes(crate::file_name::SENT_NAME_MAX_BYTES as u64),
        text: "maximum length of the name of a sent file. The legacy programs append five bytes \
               on their disk, and up to six more if they already have such a file.",
        tests: LimitTests::By(&[
            "crates/types/src/file_name.rs a_name_of_300_bytes_is_truncated_and_keeps_its_extension",
            "crates/types/src/file_name.rs every_received_and_every_sent_name_is_one_path_component",
        ]),
    },
    Limit {
        name: "types::offences::OFFENDERS_MAX",
        value: LimitValue::Count(crate::offences::OFFENDERS_MAX as u64),
        text: "maximum number of remembered offenders. Those without an offence for a day are \
               forgotten first, then those whose last offence could be forged.",
        tests: LimitTests::By(&[
            "crates/types/src/offences.rs new_names_are_bounded_rarely_reported_and_displace_no_proven_offender",
            "crates/types/src/offences.rs an_offender_quiet_for_a_day_is_the_first_to_be_forgotten",
        ]),
    },
    Limit {
        name: "types::pool::PLACES_MAX",
        value: LimitValue::Count(crate::pool::PLACES_MAX as u64),
        text: "maximum number of reusable buffers for pieces of files. Further pieces use \
               ordinary memory.",
        tests: LimitTests::By(&[
            "crates/types/src/pool.rs a_pool_is_bounded_and_the_heap_has_the_rest",
        ]),
    },
];
