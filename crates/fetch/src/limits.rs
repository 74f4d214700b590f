//! The limits of this crate on input from outside, as p2pfs(8) lists them.

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

/// Every limit of this crate, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "fetch::plan::DEMANDS_MAX",
        value: LimitValue::Count(crate::plan::DEMANDS_MAX as u64),
        text: "reads that may wait at one time; one more fails. More than the kernel may have \
               under way: 8192 read-aheads, and one for each thread of a machine.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/tests.rs the_numbers_of_fetches_and_waits_are_bounded",
        ]),
    },
    Limit {
        name: "fetch::plan::FETCHES_KEPT_MAX",
        value: LimitValue::Count(crate::plan::FETCHES_KEPT_MAX as u64),
        text: "beyond this number of open fetches, those without a waiting reader are dropped.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/tests.rs the_numbers_of_fetches_and_waits_are_bounded",
        ]),
    },
    Limit {
        name: "fetch::plan::FETCHES_MAX",
        value: LimitValue::Count(crate::plan::FETCHES_MAX as u64),
        text: "files on their way at one time; one more fails. More than the kernel may have \
               read-aheads under way, each of which may be of another file.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/tests.rs the_numbers_of_fetches_and_waits_are_bounded",
        ]),
    },
    Limit {
        name: "fetch::plan::IN_FLIGHT_MAX_BYTES",
        value: LimitValue::Bytes(crate::plan::IN_FLIGHT_MAX_BYTES),
        text: "in flight to all peers together; bounds the memory of the transfer.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/tests/links.rs a_step_costs_as_much_as_it_touches_regardless_of_load",
        ]),
    },
    Limit {
        name: "fetch::plan::PIECE_MAX_BYTES",
        value: LimitValue::Bytes(crate::plan::PIECE_MAX_BYTES),
        text: "maximum bytes of one request, which is the limit of the wire format. No request \
               crosses a multiple of this size.",
        tests: LimitTests::By(&["crates/fetch/src/plan/tests/links.rs no_request_crosses_a_piece"]),
    },
    Limit {
        name: "fetch::plan::URGENT_MAX_BYTES",
        value: LimitValue::Bytes(crate::plan::URGENT_MAX_BYTES),
        text: "maximum bytes of one request that a reader waits for, and the minimum read-ahead \
               window: the kernel's default read-ahead (VM_READAHEAD_PAGES). Hashing it takes \
               some 80 microseconds.",
        tests: LimitTests::Untried(
            "it bounds what this node asks for, and nothing that comes from outside",
        ),
    },
    Limit {
        name: "fetch::plan::holders::HOLDERS_MAX",
        value: LimitValue::Count(crate::plan::holders::HOLDERS_MAX as u64),
        text: "how many holders of one file are kept; offers beyond it are not heard.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/fetch/tests.rs the_number_of_holders_is_bounded",
        ]),
    },
    Limit {
        name: "fetch::plan::holders::RUNS_MAX",
        value: LimitValue::Count(crate::plan::holders::RUNS_MAX as u64),
        text: "how many ranges of a file are kept of what one holder has, its longest.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/tests/offers.rs the_recorded_ranges_of_a_holder_are_bounded",
        ]),
    },
    Limit {
        name: "fetch::plan::link::WINDOW_MAX_BYTES",
        value: LimitValue::Bytes(crate::plan::link::WINDOW_MAX_BYTES),
        text: "maximum bytes of bulk requests in flight to one peer: 160 ms at 100 MB/s, twice what \
               connections within a continent need.",
        tests: LimitTests::Untried(
            "it bounds what this node asks for, and nothing that comes from outside",
        ),
    },
    Limit {
        name: "fetch::plan::peers::PEERS_MAX",
        value: LimitValue::Count(crate::plan::peers::PEERS_MAX as u64),
        text: "peers of which figures are kept.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/tests/record.rs records_are_bounded_and_the_oldest_honest_ones_are_dropped",
        ]),
    },
    Limit {
        name: "fetch::plan::record::PEER_RECORDS_MAX",
        value: LimitValue::Count(crate::plan::record::PEER_RECORDS_MAX as u64),
        text: "records that are given out: those that lied first, then those heard of last.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/tests/record.rs records_are_bounded_and_the_oldest_honest_ones_are_dropped",
        ]),
    },
    Limit {
        name: "fetch::plan::streams::AHEAD_MAX_BYTES",
        value: LimitValue::Bytes(crate::plan::streams::AHEAD_MAX_BYTES),
        text: "the largest read-ahead window: the largest window of one peer.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/streams.rs the_window_of_a_sequential_reader_grows_to_its_limit",
        ]),
    },
    Limit {
        name: "fetch::plan::streams::AHEAD_OF_ALL_MAX_BYTES",
        value: LimitValue::Bytes(crate::plan::streams::AHEAD_OF_ALL_MAX_BYTES),
        text: "what is fetched ahead of all readers together, each having an equal part: eight \
               full windows.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/tests.rs the_total_read_ahead_of_many_readers_is_bounded",
        ]),
    },
    Limit {
        name: "fetch::plan::streams::STREAMS_MAX",
        value: LimitValue::Count(crate::plan::streams::STREAMS_MAX as u64),
        text: "how many streams of one file are told apart.",
        tests: LimitTests::By(&[
            "crates/fetch/src/plan/streams.rs the_number_of_streams_is_bounded",
        ]),
    },
];
