//! The limits of this crate on input from outside, as p2pfs(8) lists them.

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

/// Every limit of this crate, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "membership::config::BROADCAST_DATAGRAMS_PER_S",
        value: LimitValue::Count(crate::config::BROADCAST_DATAGRAMS_PER_S as u64),
        text: "broadcast datagrams per second that this node sends, and the burst limit.",
        tests: LimitTests::By(&["crates/membership/src/tests.rs broadcasts_respect_their_rate"]),
    },
    Limit {
        name: "membership::config::CANDIDATES_MAX",
        value: LimitValue::Count(crate::config::CANDIDATES_MAX as u64),
        text: "maximum number of nodes that members told of and that wait to be greeted. Beyond it, \
               the oldest that the same member told of is forgotten.",
        tests: LimitTests::By(&[
            "crates/membership/src/roster/candidates.rs a_teller_of_very_many_nodes_delays_no_candidate_of_another_teller",
        ]),
    },
    Limit {
        name: "membership::config::DEPARTURES_MAX",
        value: LimitValue::Count(crate::config::DEPARTURES_MAX as u64),
        text: "maximum number of remembered departures. Beyond it, the oldest that the same member \
               sent (or, if it sent none, the oldest of the member that sent the most) is \
               forgotten.",
        tests: LimitTests::By(&["crates/membership/src/rumors.rs remembered_rumors_are_bounded"]),
    },
    Limit {
        name: "membership::config::EVENTS_MAX",
        value: LimitValue::Count(crate::config::EVENTS_MAX as u64),
        text: "maximum number of events that wait for the node. Beyond it, events that a peer \
               can cause at will are dropped: messages, heads, statements, strangers and \
               offences. Changes of members are never dropped, because the node would otherwise show \
               wrong members. The node takes all events after each datagram.",
        tests: LimitTests::By(&["crates/membership/src/tests.rs unread_events_are_bounded"]),
    },
    Limit {
        name: "membership::config::GREETED_MAX",
        value: LimitValue::Count(crate::config::GREETED_MAX as u64),
        text: "maximum number of nodes that members told of and that are greeted at once.",
        tests: LimitTests::By(&[
            "crates/membership/src/roster/candidates.rs greeted_candidates_of_all_tellers_are_bounded",
        ]),
    },
    Limit {
        name: "membership::config::GREETED_PER_TELLER_MAX",
        value: LimitValue::Count(crate::config::GREETED_PER_TELLER_MAX as u64),
        text: "maximum number of such nodes (GREETED_MAX) that one member told of.",
        tests: LimitTests::By(&[
            "crates/membership/src/roster/candidates.rs a_teller_of_very_many_nodes_delays_no_candidate_of_another_teller",
        ]),
    },
    Limit {
        name: "membership::config::GREETINGS_MAX",
        value: LimitValue::Count(crate::config::GREETINGS_MAX as u64),
        text: "maximum number of seeds and lost members that are greeted at once while no member \
               is known.",
        tests: LimitTests::By(&["crates/membership/src/seeds.rs seeds_and_hints_are_limited"]),
    },
    Limit {
        name: "membership::config::HEADS_MAX",
        value: LimitValue::Count(crate::config::HEADS_MAX as u64),
        text: "maximum number of authors with a stored head. Beyond it, the oldest head that the \
               same member sent (or, if it sent none, the oldest of the member that sent the most) \
               is forgotten, which costs one repeated event.",
        tests: LimitTests::By(&["crates/membership/src/rumors.rs remembered_rumors_are_bounded"]),
    },
    Limit {
        name: "membership::config::HINTS_PER_S",
        value: LimitValue::Count(crate::config::HINTS_PER_S as u64),
        text: "hints per second that are followed.",
        tests: LimitTests::By(&["crates/membership/src/seeds.rs seeds_and_hints_are_limited"]),
    },
    Limit {
        name: "membership::config::KNOCKS_AT_ONCE",
        value: LimitValue::Count(crate::config::KNOCKS_AT_ONCE as u64),
        text: "burst limit for KNOCKS_PER_S.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests.rs connection_requests_have_a_burst_and_a_rate",
        ]),
    },
    Limit {
        name: "membership::config::KNOCKS_PER_S",
        value: LimitValue::Count(crate::config::KNOCKS_PER_S as u64),
        text: "contact attempts per second to learn which node is at an address. A sender with a \
               forged address cannot cause more of them.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests.rs connection_requests_have_a_burst_and_a_rate",
        ]),
    },
    Limit {
        name: "membership::config::LINKS_MAX",
        value: LimitValue::Count(crate::config::LINKS_MAX as u64),
        text: "maximum number of links (addresses with which datagrams are exchanged). Beyond it, \
               the unproven link that was silent longest is dropped. If all are proven, it is the \
               longest silent one of the host with the most links, and its peer must prove itself \
               again.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs the_table_of_links_is_bounded_and_drops_the_longest_silent",
            "crates/membership/src/links/tests.rs greetings_without_an_answer_displace_no_proven_link",
        ]),
    },
    Limit {
        name: "membership::config::MEMBERS_MAX",
        value: LimitValue::Count(crate::config::MEMBERS_MAX as u64),
        text: "maximum number of members, living and remembered. Beyond it, a node that speaks \
               displaces a member that never did, otherwise one of the host with the most members.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests.rs hostile_members_neither_crash_a_node_nor_fill_its_memory",
            "crates/membership/src/roster/tests.rs the_table_of_members_is_bounded_and_a_node_of_another_host_finds_room",
            "crates/membership/src/roster/tests.rs a_member_that_speaks_displaces_one_that_was_only_told_of",
        ]),
    },
    Limit {
        name: "membership::config::MEMBER_LIST_MAX_BYTES",
        value: LimitValue::Bytes(crate::config::MEMBER_LIST_MAX_BYTES as u64),
        text: "maximum size of an exported member list. A longer one is refused.",
        tests: LimitTests::By(&[
            "crates/membership/src/roster/tests.rs an_invalid_list_changes_nothing",
        ]),
    },
    Limit {
        name: "membership::config::MESSAGES_PER_S",
        value: LimitValue::Count(crate::config::MESSAGES_PER_S as u64),
        text: "application messages and frames of rumors per second that are accepted from one \
               session, and the burst limit.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests.rs one_session_cannot_flood_the_owner_with_messages",
        ]),
    },
    Limit {
        name: "membership::config::PROOFS_AT_ONCE",
        value: LimitValue::Count(crate::config::PROOFS_AT_ONCE as u64),
        text: "burst limit for PROOFS_PER_S: all of a large cluster at a node that starts.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs proof_checks_have_a_burst_and_a_rate",
        ]),
    },
    Limit {
        name: "membership::config::PROOFS_PER_S",
        value: LimitValue::Count(crate::config::PROOFS_PER_S as u64),
        text: "proofs per second that are verified. Each costs two signatures and a key exchange.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs proof_checks_have_a_burst_and_a_rate",
        ]),
    },
    Limit {
        name: "membership::config::ROUTES_MAX",
        value: LimitValue::Count(crate::config::ROUTES_MAX as u64),
        text: "maximum number of proven addresses of one node. Beyond it, the one that was silent \
               longest is dropped.",
        tests: LimitTests::By(&[
            "crates/membership/src/tests/reach.rs the_addresses_of_one_node_are_limited",
        ]),
    },
    Limit {
        name: "membership::config::SEEDS_MAX",
        value: LimitValue::Count(crate::config::SEEDS_MAX as u64),
        text: "maximum number of remembered seeds, and of lost members that are greeted. Further \
               ones are ignored.",
        tests: LimitTests::By(&["crates/membership/src/seeds.rs seeds_and_hints_are_limited"]),
    },
    Limit {
        name: "membership::config::STATEMENTS_SPREAD_MAX",
        value: LimitValue::Count(crate::config::STATEMENTS_SPREAD_MAX as u64),
        text: "maximum number of membership statements that are spread at one time. Further ones \
               reach members only when these ask for statements.",
        tests: LimitTests::By(&[
            "crates/membership/src/rumors.rs concurrently_spread_statements_are_bounded",
        ]),
    },
    Limit {
        name: "membership::config::STRANGERS_MAX",
        value: LimitValue::Count(crate::config::STRANGERS_MAX as u64),
        text: "maximum number of addresses that wait for the node to learn which node is there. \
               Further ones are ignored.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs unproven_addresses_are_bounded",
        ]),
    },
    Limit {
        name: "membership::config::TRANSMITS_MAX",
        value: LimitValue::Count(crate::config::TRANSMITS_MAX as u64),
        text: "maximum number of datagrams that wait to be sent. Beyond it, the oldest is \
               dropped.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs queued_datagrams_are_bounded_and_the_oldest_are_dropped",
        ]),
    },
    Limit {
        name: "membership::config::UNMET_MAX",
        value: LimitValue::Count(crate::config::UNMET_MAX as u64),
        text: "maximum number of members that never answered this node. Other members may reach \
               them. Further ones become members only when they answer.",
        tests: LimitTests::By(&[
            "crates/membership/src/roster/candidates.rs silent_candidates_become_unmet_members_within_the_share_of_their_teller",
        ]),
    },
    Limit {
        name: "membership::config::UNMET_PER_TELLER_MAX",
        value: LimitValue::Count(crate::config::UNMET_PER_TELLER_MAX as u64),
        text: "maximum number of such members (UNMET_MAX) that one member told of.",
        tests: LimitTests::By(&[
            "crates/membership/src/roster/candidates.rs silent_candidates_become_unmet_members_within_the_share_of_their_teller",
            "crates/membership/src/roster/tests.rs a_member_that_tells_of_made_up_nodes_makes_few_of_them_members_and_few_tell_of_them",
        ]),
    },
    Limit {
        name: "membership::config::UNPROVEN_ANSWERS_PER_S",
        value: LimitValue::Count(crate::config::UNPROVEN_ANSWERS_PER_S as u64),
        text: "answers per second to unproven addresses, and the burst limit.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs answers_to_hellos_have_a_burst_and_resume_when_there_is_room",
        ]),
    },
    Limit {
        name: "membership::config::WAITING_FRAMES_MAX",
        value: LimitValue::Count(crate::config::WAITING_FRAMES_MAX as u64),
        text: "maximum number of frames that wait for the proof of one link. Beyond it, the \
               oldest is dropped.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs datagrams_waiting_for_a_proof_are_bounded",
        ]),
    },
    Limit {
        name: "membership::links::ended::ENDED_SESSIONS_MAX",
        value: LimitValue::Count(crate::links::ENDED_SESSIONS_MAX as u64),
        text: "maximum number of ended sessions with remembered counters, so that none of their \
               datagrams is accepted again. The session that ended first is forgotten first.",
        tests: LimitTests::By(&[
            "crates/membership/src/links/tests.rs remembered_ended_sessions_are_bounded",
        ]),
    },
    Limit {
        name: "membership::vouch::GENERATION_AHEAD_MAX_S",
        value: LimitValue::Count(crate::vouch::GENERATION_AHEAD_MAX_S),
        text: "maximum number of seconds by which a generation, which is a time, may be ahead of \
               the clock of this machine. Clocks are wrong by hours if they were set by hand or \
               to the wrong time zone.",
        tests: LimitTests::By(&[
            "crates/membership/src/vouch.rs a_generation_over_a_day_ahead_of_the_clock_is_refused",
        ]),
    },
];
