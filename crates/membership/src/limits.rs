//! The limits of this crate on input from outside, as p2pfs(8) lists them.

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

/// Every limit of this crate, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "membership::config::BROADCAST_DATAGRAMS_PER_S",
        value: LimitValue::Count(crate::config::BROADCAST_DATAGRAMS_PER_S as u64),
        text: "broadcast datagrams a second that this node sends, and how many may go at once.",
        tests: LimitTests::By(&["crates/membership/src/tests.rs broadcasts_respect_their_rate"]),
    },
    Limit {
        name: "membership::config::DEPARTURES_MAX",
        value: LimitValue::Count(crate::config::DEPARTURES_MAX as u64),
        text: "departures that are remembered, oldest forgotten first.",
        tests: LimitTests::By(&["crates/membership/src/rumors.rs remembered_rumors_are_bounded"]),
    },
    Limit {
        name: "membership::config::EVENTS_MAX",
        value: LimitValue::Count(crate::config::EVENTS_MAX as u64),
        text: "events that wait for the owner to take them; beyond it application messages and \
               heads are dropped (members' comings and goings never are: those are bounded by \
               MEMBERS_MAX).",
        tests: LimitTests::By(&["crates/membership/src/tests.rs unread_events_are_bounded"]),
    },
    Limit {
        name: "membership::config::GREETINGS_MAX",
        value: LimitValue::Count(crate::config::GREETINGS_MAX as u64),
        text: "seeds and lost members that are greeted at once while nobody is known.",
        tests: LimitTests::By(&["crates/membership/src/seeds.rs seeds_and_hints_are_limited"]),
    },
    Limit {
        name: "membership::config::HEADS_MAX",
        value: LimitValue::Count(crate::config::HEADS_MAX as u64),
        text: "authors whose heads are held; beyond it the one that changed longest ago is \
               forgotten, which costs one repeated event.",
        tests: LimitTests::By(&["crates/membership/src/rumors.rs remembered_rumors_are_bounded"]),
    },
    Limit {
        name: "membership::config::HINTS_PER_S",
        value: LimitValue::Count(crate::config::HINTS_PER_S as u64),
        text: "hints a second that are followed.",
        tests: LimitTests::By(&["crates/membership/src/seeds.rs seeds_and_hints_are_limited"]),
    },
    Limit {
        name: "membership::config::KNOCKS_AT_ONCE",
        value: LimitValue::Count(crate::config::KNOCKS_AT_ONCE as u64),
        text: "see KNOCKS_PER_S.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests.rs connection_requests_have_a_burst_and_a_rate",
        ]),
    },
    Limit {
        name: "membership::config::KNOCKS_PER_S",
        value: LimitValue::Count(crate::config::KNOCKS_PER_S as u64),
        text: "contact attempts a second, and at once, to learn which node is at an address. A \
               sender with a forged address cannot cause more of them.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests.rs connection_requests_have_a_burst_and_a_rate",
        ]),
    },
    Limit {
        name: "membership::config::LINKS_MAX",
        value: LimitValue::Count(crate::config::LINKS_MAX as u64),
        text: "links (addresses with whom datagrams pass) that are kept; beyond it the one that \
               was silent longest goes, and must prove itself again.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs the_table_of_links_is_bounded_and_drops_the_longest_silent",
        ]),
    },
    Limit {
        name: "membership::config::MEMBERS_MAX",
        value: LimitValue::Count(crate::config::MEMBERS_MAX as u64),
        text: "members, living and remembered; a packet that names a new one beyond it is \
               dropped.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests.rs hostile_members_neither_crash_a_node_nor_fill_its_memory",
            "crates/membership/src/roster/tests.rs the_table_of_members_is_bounded",
        ]),
    },
    Limit {
        name: "membership::config::MEMBER_LIST_MAX_BYTES",
        value: LimitValue::Bytes(crate::config::MEMBER_LIST_MAX_BYTES as u64),
        text: "the longest exported member list in bytes; a longer one is refused.",
        tests: LimitTests::By(&[
            "crates/membership/src/roster/tests.rs an_invalid_list_changes_nothing",
        ]),
    },
    Limit {
        name: "membership::config::MESSAGES_PER_S",
        value: LimitValue::Count(crate::config::MESSAGES_PER_S as u64),
        text: "application messages a second that are taken from one session.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests.rs one_session_cannot_flood_the_owner_with_messages",
        ]),
    },
    Limit {
        name: "membership::config::PROOFS_AT_ONCE",
        value: LimitValue::Count(crate::config::PROOFS_AT_ONCE as u64),
        text: "see PROOFS_PER_S.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs proof_checks_have_a_burst_and_a_rate",
        ]),
    },
    Limit {
        name: "membership::config::PROOFS_PER_S",
        value: LimitValue::Count(crate::config::PROOFS_PER_S as u64),
        text: "proofs a second that are checked, each of which costs two signatures and a key \
               exchange, and how many may come at once: all of a large cluster to one that \
               starts.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs proof_checks_have_a_burst_and_a_rate",
        ]),
    },
    Limit {
        name: "membership::config::ROUTES_MAX",
        value: LimitValue::Count(crate::config::ROUTES_MAX as u64),
        text: "proven addresses of one node. Beyond it the one that was silent longest is dropped.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests/reach.rs the_addresses_of_one_node_are_limited",
        ]),
    },
    Limit {
        name: "membership::config::SEEDS_MAX",
        value: LimitValue::Count(crate::config::SEEDS_MAX as u64),
        text: "seeds that are remembered, and lost members that are looked for; a further one \
               is ignored.",
        tests: LimitTests::By(&["crates/membership/src/seeds.rs seeds_and_hints_are_limited"]),
    },
    Limit {
        name: "membership::config::STATEMENTS_SPREAD_MAX",
        value: LimitValue::Count(crate::config::STATEMENTS_SPREAD_MAX as u64),
        text: "statements about who is in that are spread at one time; what is beyond is asked \
               for.",
        tests: LimitTests::By(&[
            "crates/membership/src/rumors.rs concurrently_spread_statements_are_bounded",
        ]),
    },
    Limit {
        name: "membership::config::STRANGERS_MAX",
        value: LimitValue::Count(crate::config::STRANGERS_MAX as u64),
        text: "addresses that wait for the owner to find out who is there; a further one is not \
               noted.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs unproven_addresses_are_bounded",
        ]),
    },
    Limit {
        name: "membership::config::TRANSMITS_MAX",
        value: LimitValue::Count(crate::config::TRANSMITS_MAX as u64),
        text: "datagrams that wait for the owner to take them; beyond it the oldest is dropped.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs queued_datagrams_are_bounded_and_the_oldest_are_dropped",
        ]),
    },
    Limit {
        name: "membership::config::UNPROVEN_ANSWERS_PER_S",
        value: LimitValue::Count(crate::config::UNPROVEN_ANSWERS_PER_S as u64),
        text: "answers a second to addresses that have proven nothing, and how many may come at \
               once.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs answers_to_hellos_have_a_burst_and_resume_when_there_is_room",
        ]),
    },
    Limit {
        name: "membership::config::WAITING_FRAMES_MAX",
        value: LimitValue::Count(crate::config::WAITING_FRAMES_MAX as u64),
        text: "frames that wait for one link's proof; beyond it the oldest is dropped.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs datagrams_waiting_for_a_proof_are_bounded",
        ]),
    },
    Limit {
        name: "membership::links::ended::ENDED_SESSIONS_MAX",
        value: LimitValue::Count(crate::links::ENDED_SESSIONS_MAX as u64),
        text: "ended sessions whose counters are remembered, so that none of their datagrams is \
               accepted again; the one that ended first is forgotten first.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs remembered_ended_sessions_are_bounded",
        ]),
    },
    Limit {
        name: "membership::vouch::GENERATION_AHEAD_MAX_S",
        value: LimitValue::Count(crate::vouch::GENERATION_AHEAD_MAX_S),
        text: "how far ahead of this machine's clock a generation, which is a time in seconds, \
               may be: clocks are wrong by hours where somebody set them by hand or to the \
               wrong zone.",
        tests: LimitTests::By(&[
            "crates/membership/src/vouch.rs a_generation_over_a_day_ahead_of_the_clock_is_refused",
        ]),
    },
];
