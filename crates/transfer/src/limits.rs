//! List of the limits of this crate for p2pfs(8).

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

/// Limits of this crate on input from outside, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "transfer::batches::BATCHES_PER_NODE_MAX",
        value: LimitValue::Count(crate::batches::BATCHES_PER_NODE_MAX as u64),
        text: "the most batches under way to one node at a time: with BATCH_TARGET_BYTES each, \
               they move 50 MB/s over 20 ms.",
        tests: LimitTests::By(&[
            "crates/transfer/src/batches/table.rs batches_under_way_and_files_wanted_from_one_node_are_bounded",
        ]),
    },
    Limit {
        name: "transfer::batches::COMING_MAX",
        value: LimitValue::Count(crate::batches::COMING_MAX as u64),
        text: "the most files that are asked for, wait to be asked for, or are here and not \
               stored; what is wanted beyond that is not asked for.",
        tests: LimitTests::By(&[
            "crates/transfer/src/batches/table.rs batches_under_way_and_files_wanted_from_one_node_are_bounded",
        ]),
    },
    Limit {
        name: "transfer::client::FETCH_EVENTS_MAX",
        value: LimitValue::Count(crate::client::FETCH_EVENTS_MAX as u64),
        text: "how many events wait for their reader; further ones are dropped, and no read waits \
               for them.",
        tests: LimitTests::Untried(
            "a queue of the runtime's own, made with this number: an event that finds it full is dropped",
        ),
    },
    Limit {
        name: "transfer::net::lan::known::HINTS_AT_ONCE",
        value: LimitValue::Count(crate::net::lan::known::HINTS_AT_ONCE as u64),
        text: "hints by mDNS at once after a quiet time.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/lan/tests.rs hints_keep_to_their_rate_and_memory",
        ]),
    },
    Limit {
        name: "transfer::net::lan::known::HINTS_PER_S",
        value: LimitValue::Count(crate::net::lan::known::HINTS_PER_S as u64),
        text: "addresses a second that mDNS passes on, of its senders in turn.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/lan/tests.rs hints_keep_to_their_rate_and_memory",
        ]),
    },
    Limit {
        name: "transfer::net::lan::known::NODES_MAX",
        value: LimitValue::Count(crate::net::lan::known::NODES_MAX as u64),
        text: "nodes that are remembered by mDNS; then a node of the sender with the most of \
               them is forgotten.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/lan/tests.rs table_holds_its_maximum_and_each_sender_its_share",
        ]),
    },
    Limit {
        name: "transfer::net::lan::known::NODES_PER_SENDER_MAX",
        value: LimitValue::Count(crate::net::lan::known::NODES_PER_SENDER_MAX as u64),
        text: "maximum number of remembered nodes of one sender.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/lan/tests.rs table_holds_its_maximum_and_each_sender_its_share",
        ]),
    },
    Limit {
        name: "transfer::net::lan::machine::DATAGRAMS_PER_S",
        value: LimitValue::Count(crate::net::lan::machine::DATAGRAMS_PER_S as u64),
        text: "mDNS datagrams a second of one interface that are parsed; only those with a name \
               of the service count.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/lan/tests.rs only_so_many_datagrams_of_the_service_are_parsed_in_a_second",
        ]),
    },
    Limit {
        name: "transfer::net::lan::message::DATAGRAM_MAX_BYTES",
        value: LimitValue::Bytes(crate::net::lan::message::DATAGRAM_MAX_BYTES as u64),
        text: "the largest mDNS datagram that is read.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/lan/tests.rs datagrams_with_more_bytes_or_records_than_a_node_sends_are_not_read",
        ]),
    },
    Limit {
        name: "transfer::net::peer::limits::PINGS_AT_ONCE",
        value: LimitValue::Count(crate::net::peer::limits::PINGS_AT_ONCE as u64),
        text: "pings that a peer may send at once on one connection, besides one for each of its \
               requests. One more ends the connection, and the peer is named.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/peer/ping_pace.rs pings_have_a_burst_and_a_rate",
            "crates/transfer/src/net/peer/tests/floods.rs a_member_that_pings_endlessly_is_limited_and_named",
        ]),
    },
    Limit {
        name: "transfer::net::peer::limits::PINGS_PER_S",
        value: LimitValue::Count(crate::net::peer::limits::PINGS_PER_S as u64),
        text: "pings that a peer may send per second on one connection after PINGS_AT_ONCE, \
               besides one for each of its requests.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/peer/ping_pace.rs pings_have_a_burst_and_a_rate",
        ]),
    },
    Limit {
        name: "transfer::net::peer::request_room::LARGE_REQUESTS_MAX_BYTES",
        value: LimitValue::Bytes(crate::net::peer::request_room::LARGE_REQUESTS_MAX_BYTES as u64),
        text: "requests of 4 KiB or more, of all peers, that wait or are answered; the next one \
               is answered busy.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/peer/request_room.rs room_is_bounded_for_one_peer_and_for_all_and_returns",
        ]),
    },
    Limit {
        name: "transfer::net::peer::request_room::LARGE_REQUESTS_PER_PEER_BYTES",
        value: LimitValue::Bytes(
            crate::net::peer::request_room::LARGE_REQUESTS_PER_PEER_BYTES as u64,
        ),
        text: "such requests of one peer.",
        tests: LimitTests::By(&[
            "crates/transfer/src/net/peer/request_room.rs room_is_bounded_for_one_peer_and_for_all_and_returns",
            "crates/transfer/src/net/peer/tests/requests.rs large_requests_are_bounded_by_their_bytes_and_leave_room_for_small_ones",
        ]),
    },
    Limit {
        name: "transfer::server::askers::ASKERS_MAX",
        value: LimitValue::Count(crate::server::askers::ASKERS_MAX as u64),
        text: "how many askers of one file are remembered: what an offer can name \
               (OFFER_ASKERS_MAX).",
        tests: LimitTests::By(&[
            "crates/transfer/src/server/askers.rs the_latest_askers_are_named_except_to_themselves",
        ]),
    },
    Limit {
        name: "transfer::server::rebuilds::REBUILDS_MAX",
        value: LimitValue::Count(crate::server::rebuilds::REBUILDS_MAX as u64),
        text: "hash trees of own files that are rebuilt or wait for it; requests beyond that are \
               answered as busy.",
        tests: LimitTests::By(&[
            "crates/transfer/src/server/rebuilds.rs rebuilds_are_bounded_by_asker_and_in_total_and_each_content_has_one",
        ]),
    },
    Limit {
        name: "transfer::server::rebuilds::REBUILDS_PER_NODE_MAX",
        value: LimitValue::Count(crate::server::rebuilds::REBUILDS_PER_NODE_MAX as u64),
        text: "of these, the most that one node asked for.",
        tests: LimitTests::By(&[
            "crates/transfer/src/server/rebuilds.rs rebuilds_are_bounded_by_asker_and_in_total_and_each_content_has_one",
        ]),
    },
];
