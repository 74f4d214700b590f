//! The limits of this crate on input from outside, as p2pfs(8) lists them.

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

/// Every limit of this crate, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "legacy::discovery::answering::ANSWERS_MAX",
        value: LimitValue::Count(crate::discovery::answering::ANSWERS_MAX as u64),
        text: "maximum number of delayed answers to legacy peers. Further questions get no answer.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/answering.rs pending_answers_are_bounded_in_total_and_for_each_address",
        ]),
    },
    Limit {
        name: "legacy::discovery::asking::ASKS_BURST",
        value: LimitValue::Count(crate::discovery::asking::ASKS_BURST as u64),
        text: "burst limit for ASKS_PER_S.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/tests/storms.rs many_lookups_are_paced_and_each_has_its_full_time",
            "crates/legacy/src/discovery/tests/hostile.rs a_newcomer_receives_only_the_latest_questions",
        ]),
    },
    Limit {
        name: "legacy::discovery::asking::ASKS_MAX",
        value: LimitValue::Count(crate::discovery::asking::ASKS_MAX as u64),
        text: "maximum number of open questions, each for one file name. A further one evicts \
               one whose lookup is over. A user has at most as many as there are free places, \
               which is half of all if no other user has any; a further one is refused.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/tests/storms.rs questions_are_bounded_and_those_past_their_lookup_are_dropped",
            "crates/legacy/src/discovery/tests/storms.rs questions_of_one_user_leave_room_for_those_of_another",
        ]),
    },
    Limit {
        name: "legacy::discovery::asking::ASKS_PER_S",
        value: LimitValue::Count(crate::discovery::asking::ASKS_PER_S as u64),
        text: "questions per second that this node sends to its legacy peers. A legacy peer \
               searches its whole folder for a name that it does not have.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/tests/storms.rs many_lookups_are_paced_and_each_has_its_full_time",
        ]),
    },
    Limit {
        name: "legacy::discovery::asking::LATE_MAX",
        value: LimitValue::Count(crate::discovery::asking::LATE_MAX as u64),
        text: "maximum number of questions that stay open for a late answer after their lookup \
               is over. The oldest is closed, those of persons last.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/tests/storms.rs few_questions_stay_open_for_late_answers",
        ]),
    },
    Limit {
        name: "legacy::discovery::asking::TRIES_AT_ONE_MAX",
        value: LimitValue::Count(crate::discovery::asking::TRIES_AT_ONE_MAX as u64),
        text: "maximum number of files that are requested from one address at one time, to find a \
               peer that delivers them. Without it, a silent address could occupy all of \
               TRIES_MAX.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/asking/tests.rs tried_responders_are_bounded_in_total_and_for_each_address",
        ]),
    },
    Limit {
        name: "legacy::discovery::asking::TRIES_MAX",
        value: LimitValue::Count(crate::discovery::asking::TRIES_MAX as u64),
        text: "maximum number of files that are requested at one time from legacy peers that \
               answered a question, to find a peer that delivers them.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/asking/tests.rs tried_responders_are_bounded_in_total_and_for_each_address",
        ]),
    },
    Limit {
        name: "legacy::discovery::rate::BURST",
        value: LimitValue::Count(crate::discovery::rate::BURST as u64),
        text: "burst limit for PER_S: the lists of a large cluster, all sent from one machine.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/rate.rs a_member_is_served_beside_a_flood_from_its_address",
            "crates/legacy/src/discovery/rate.rs an_address_has_its_burst_and_rate_independent_of_others",
            "crates/legacy/src/discovery/rate.rs new_addresses_share_one_bound",
        ]),
    },
    Limit {
        name: "legacy::discovery::rate::MEMBER_BURST",
        value: LimitValue::Count(crate::discovery::rate::MEMBER_BURST as u64),
        text: "burst limit for MEMBER_PER_S.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/rate.rs a_member_is_served_beside_a_flood_from_its_address",
        ]),
    },
    Limit {
        name: "legacy::discovery::rate::MEMBER_PER_S",
        value: LimitValue::Count(crate::discovery::rate::MEMBER_PER_S as u64),
        text: "datagrams per second that each member may send when PER_S is exhausted at its \
               address. They suffice for its lists and the questions of a person.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/rate.rs a_member_is_served_beside_a_flood_from_its_address",
        ]),
    },
    Limit {
        name: "legacy::discovery::rate::PER_S",
        value: LimitValue::Count(crate::discovery::rate::PER_S as u64),
        text: "datagrams per second that are accepted from one IP address.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/rate.rs a_member_is_served_beside_a_flood_from_its_address",
            "crates/legacy/src/discovery/rate.rs an_address_has_its_burst_and_rate_independent_of_others",
        ]),
    },
    Limit {
        name: "legacy::discovery::roster::CANDIDATES_MAX",
        value: LimitValue::Count(crate::discovery::roster::CANDIDATES_MAX as u64),
        text: "maximum number of addresses and host names that are known and not heard yet. \
               Further ones in lists of legacy peers are ignored, further configured ones are \
               not.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/roster.rs addresses_learned_by_gossip_are_bounded_in_total_and_for_each_source",
        ]),
    },
    Limit {
        name: "legacy::discovery::roster::MEMBERS_MAX",
        value: LimitValue::Count(crate::discovery::roster::MEMBERS_MAX as u64),
        text: "maximum number of members that were heard. Further peers are answered but not \
               gossiped.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery/tests/hostile.rs no_datagram_breaks_the_machine_or_its_limits",
            "crates/legacy/src/discovery/tests/hostile.rs a_flood_of_spoofed_lists_fills_only_bounded_tables_and_sends_little",
            "crates/legacy/src/discovery/tests/hostile.rs a_forged_sender_receives_no_more_than_was_sent_in_its_name",
        ]),
    },
    Limit {
        name: "legacy::discovery_plane::CONNECTIONS_MAX",
        value: LimitValue::Count(crate::discovery_plane::CONNECTIONS_MAX as u64),
        text: "maximum number of connections of legacy peers that wait to be served. Further \
               ones are closed.",
        tests: LimitTests::Untried(
            "the size of a channel between two tasks, which the second empties at once",
        ),
    },
    Limit {
        name: "legacy::discovery_plane::DATAGRAMS_MAX",
        value: LimitValue::Count(crate::discovery_plane::DATAGRAMS_MAX as u64),
        text: "maximum number of datagrams of legacy peers that wait. Further ones are dropped, \
               as the network would do.",
        tests: LimitTests::Untried(
            "the size of a channel between two tasks, which the second empties at once",
        ),
    },
    Limit {
        name: "legacy::discovery_plane::files::COPIES_MAX",
        value: LimitValue::Count(crate::discovery_plane::files::COPIES_MAX as u64),
        text: "maximum number of copies of legacy peers' files at one time. Further opens fail.",
        tests: LimitTests::Untried(
            "the places of a semaphore, each with a connection and a file of its own",
        ),
    },
    Limit {
        name: "legacy::discovery_plane::files::KNOWN_MAX",
        value: LimitValue::Count(crate::discovery_plane::files::KNOWN_MAX as u64),
        text: "maximum number of known files of legacy peers. The file found first is forgotten \
               first.",
        tests: LimitTests::Untried(
            "each is found only by a lookup of its own, which has a limit that is tried",
        ),
    },
    Limit {
        name: "legacy::discovery_plane::files::WINDOWS_MAX",
        value: LimitValue::Count(crate::discovery_plane::files::WINDOWS_MAX as u64),
        text: "maximum number of legacy peers' files that are read at one time without room in \
               the cache. Further opens fail with ENOSPC.",
        tests: LimitTests::Untried(
            "the places of a semaphore, each with a file that the cache has no room for",
        ),
    },
    Limit {
        name: "legacy::discovery_plane::refusals::TOLD_MAX",
        value: LimitValue::Count(crate::discovery_plane::refusals::TOLD_MAX as u64),
        text: "maximum number of remembered file names that were reported once in a warning. One \
               more makes this node forget all.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery_plane/refusals.rs a_refused_name_is_reported_once_and_a_million_names_a_few_times",
        ]),
    },
    Limit {
        name: "legacy::discovery_plane::tcp::SERVED_MAX",
        value: LimitValue::Count(crate::discovery_plane::tcp::SERVED_MAX as u64),
        text: "maximum number of connections of legacy peers that are served at one time. Further \
               ones are closed at once.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery_plane/tcp/tests.rs connections_are_bounded_for_each_address_and_in_total",
        ]),
    },
    Limit {
        name: "legacy::mesh::connection::LINES_MAX",
        value: LimitValue::Count(crate::mesh::LINES_MAX as u64),
        text: "maximum number of lines that wait to be written to a mesh peer. The connection to \
               a peer for which more would wait is closed.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/connection.rs a_peer_that_never_reads_is_dropped",
        ]),
    },
    Limit {
        name: "legacy::mesh::known::DIALS_AT_ONCE",
        value: LimitValue::Count(crate::mesh::known::DIALS_AT_ONCE as u64),
        text: "maximum number of learned addresses that are dialled in one round, as in the \
               legacy programs.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/machine/tests.rs learned_addresses_are_dialled_a_few_at_a_time_after_a_pause",
        ]),
    },
    Limit {
        name: "legacy::mesh::known::KNOWN_MAX",
        value: LimitValue::Count(crate::mesh::known::KNOWN_MAX as u64),
        text: "maximum number of addresses learned from mesh peers. Further ones are ignored.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/machine/tests/hostile.rs ten_thousand_addresses_are_one_offence_and_few_are_stored",
            "crates/legacy/src/mesh/machine/tests/hostile.rs the_tables_agree_and_keep_their_limits_after_any_input",
        ]),
    },
    Limit {
        name: "legacy::mesh::known::KNOWN_OF_PEER_MAX",
        value: LimitValue::Count(crate::mesh::known::KNOWN_OF_PEER_MAX as u64),
        text: "maximum number of addresses learned from one mesh peer.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/machine/tests/hostile.rs ten_thousand_addresses_are_one_offence_and_few_are_stored",
        ]),
    },
    Limit {
        name: "legacy::mesh::known::TRIES_MAX",
        value: LimitValue::Count(crate::mesh::known::TRIES_MAX as u64),
        text: "number of failed dials after which a learned address is forgotten.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/machine/tests.rs a_learned_address_is_dropped_after_some_tries_and_a_configured_one_never",
        ]),
    },
    Limit {
        name: "legacy::mesh::machine::HANDSHAKES_MAX",
        value: LimitValue::Count(crate::mesh::machine::HANDSHAKES_MAX as u64),
        text: "maximum number of accepted connections of the mesh in the handshake. Further ones \
               are closed at once.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/machine/tests/hostile.rs silent_strangers_take_few_places_and_for_ten_seconds",
        ]),
    },
    Limit {
        name: "legacy::mesh::machine::LINES_BURST",
        value: LimitValue::Count(crate::mesh::machine::LINES_BURST as u64),
        text: "burst limit for LINES_PER_S.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/machine/tests/hostile.rs a_peer_that_talks_at_its_limit_is_served_and_not_an_offender",
            "crates/legacy/src/mesh/machine/tests/hostile.rs a_flood_of_lines_ends_the_connection_and_names_its_sender",
        ]),
    },
    Limit {
        name: "legacy::mesh::machine::LINES_PER_S",
        value: LimitValue::Count(crate::mesh::machine::LINES_PER_S as u64),
        text: "lines per second that a mesh peer may send on a connection. More end the \
               connection.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/machine/tests/hostile.rs a_peer_that_talks_at_its_limit_is_served_and_not_an_offender",
        ]),
    },
    Limit {
        name: "legacy::mesh::machine::SILENCE_MAX",
        value: LimitValue::Time(crate::mesh::machine::SILENCE_MAX),
        text: "how long a mesh peer may be silent before its connection is closed.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/machine/tests/hostile.rs a_peer_may_be_silent_for_the_limit_and_no_longer",
        ]),
    },
    Limit {
        name: "legacy::mesh::receive::OPEN_MAX",
        value: LimitValue::Count(crate::mesh::receive::OPEN_MAX as u64),
        text: "maximum number of files that a mesh peer sends at one time on a connection. A \
               further one is refused and ends the connection.",
        tests: LimitTests::By(&[
            "crates/legacy/src/mesh/receive.rs a_flood_of_files_is_refused_and_bounded_in_memory",
        ]),
    },
    Limit {
        name: "legacy::wire::discovery::address::HOST_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::discovery::address::HOST_MAX_BYTES as u64),
        text: "maximum length of a host name (RFC 1035, section 2.3.4).",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/discovery/address.rs a_host_name_is_accepted_up_to_its_limit",
        ]),
    },
    Limit {
        name: "legacy::wire::discovery::message::LISTED_MAX",
        value: LimitValue::Count(crate::wire::discovery::message::LISTED_MAX as u64),
        text: "maximum number of entries that are used from one list of the discovery protocol.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/discovery/message.rs no_input_breaks_the_decoder_and_its_output_is_within_limits",
            "crates/legacy/src/wire/discovery/message.rs a_datagram_and_its_list_are_read_up_to_their_limits",
        ]),
    },
    Limit {
        name: "legacy::wire::discovery::message::RECEIVED_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::discovery::message::RECEIVED_MAX_BYTES as u64),
        text: "maximum length of a received datagram: all that UDP over IPv4 can carry. The \
               legacy programs send their whole list in one datagram, whatever its size.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/discovery/message.rs a_datagram_and_its_list_are_read_up_to_their_limits",
        ]),
    },
    Limit {
        name: "legacy::wire::discovery::message::SENT_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::discovery::message::SENT_MAX_BYTES as u64),
        text: "maximum length of a sent datagram. It fits an Ethernet frame, and the 2048 bytes \
               that the legacy programs read. These truncate a longer list and gossip the \
               truncated last address.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/discovery/message.rs a_long_list_is_split_and_each_part_begins_with_our_address",
        ]),
    },
    Limit {
        name: "legacy::wire::discovery::transfer::REQUEST_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::discovery::transfer::REQUEST_MAX_BYTES as u64),
        text: "maximum length of a request for a file, as in the legacy programs.",
        tests: LimitTests::By(&[
            "crates/legacy/src/discovery_plane/tcp/tests.rs a_request_is_read_up_to_its_limit",
        ]),
    },
    Limit {
        name: "legacy::wire::discovery::transfer::SIZE_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::discovery::transfer::SIZE_MAX_BYTES),
        text: "size of the largest file that ten digits can express.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/discovery/transfer.rs the_header_is_padded_with_colons_to_ten_and_sixty_four_bytes",
            "crates/legacy/src/wire/discovery/transfer.rs no_input_breaks_the_header_decoder",
            "crates/legacy/src/wire/discovery/transfer.rs every_header_that_can_be_sent_is_decoded_equal",
        ]),
    },
    Limit {
        name: "legacy::wire::mesh::decoder::HEAD_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::mesh::decoder::HEAD_MAX_BYTES as u64),
        text: "maximum length of the first line of a payload that is part of a file: a name, a \
               size, a hash.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/mesh/decoder.rs a_line_and_a_head_are_read_up_to_their_limits",
            "crates/legacy/src/wire/mesh/decoder.rs a_head_without_an_end_is_not_a_file",
        ]),
    },
    Limit {
        name: "legacy::wire::mesh::decoder::LINE_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::mesh::decoder::LINE_MAX_BYTES as u64),
        text: "maximum length of a line of the mesh protocol: some three thousand addresses. The \
               legacy programs list at most fifteen.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/mesh/decoder.rs an_endless_line_ends_the_connection_within_the_memory_limit",
            "crates/legacy/src/wire/mesh/decoder.rs a_line_and_a_head_are_read_up_to_their_limits",
        ]),
    },
    Limit {
        name: "legacy::wire::mesh::decoder::MESSAGE_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::mesh::decoder::MESSAGE_MAX_BYTES),
        text: "maximum length of a payload that is not part of a file. The bytes of a longer one \
               are skipped.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/mesh/decoder.rs bytes_without_a_file_are_forwarded_up_to_their_limit_and_skipped_beyond",
        ]),
    },
    Limit {
        name: "legacy::wire::mesh::file::BYTES_MAX",
        value: LimitValue::Bytes(crate::wire::mesh::file::BYTES_MAX),
        text: "maximum length of a payload. The legacy programs refuse to send more.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/mesh/decoder.rs a_payload_of_the_maximum_length_is_not_an_offence",
        ]),
    },
    Limit {
        name: "legacy::wire::mesh::file::CHUNK_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::mesh::file::CHUNK_MAX_BYTES),
        text: "maximum length of a chunk of a sent file: below BYTES_MAX, with room for the head \
               of the payload.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/mesh/file.rs a_file_of_a_gibibyte_fits_the_queue_of_an_old_receiver",
        ]),
    },
    Limit {
        name: "legacy::wire::mesh::line::CHAT_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::mesh::line::CHAT_MAX_BYTES as u64),
        text: "maximum length of a chat message. A longer one is truncated.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/mesh/line.rs an_id_is_accepted_up_to_its_limit_and_names_and_talk_are_truncated",
        ]),
    },
    Limit {
        name: "legacy::wire::mesh::line::ID_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::mesh::line::ID_MAX_BYTES as u64),
        text: "maximum length of the ID of a mesh peer: twice that of the legacy programs.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/mesh/line.rs an_id_is_accepted_up_to_its_limit_and_names_and_talk_are_truncated",
        ]),
    },
    Limit {
        name: "legacy::wire::mesh::line::LISTED_MAX",
        value: LimitValue::Count(crate::wire::mesh::line::LISTED_MAX as u64),
        text: "maximum number of entries that are used from one list of the mesh protocol. The \
               legacy programs list at most ten peers and five other addresses. A p2pfs node \
               lists its connected peers, at most 20 by default.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/mesh/line.rs no_input_breaks_the_line_parser",
            "crates/legacy/src/wire/mesh/line.rs a_list_is_read_up_to_its_limit_and_the_rest_is_counted",
            "crates/legacy/src/wire/mesh/line.rs the_valid_entries_of_a_mixed_list_are_used",
        ]),
    },
    Limit {
        name: "legacy::wire::mesh::line::PEER_NAME_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::mesh::line::PEER_NAME_MAX_BYTES as u64),
        text: "maximum length of the name of a mesh peer. A longer one is truncated.",
        tests: LimitTests::By(&[
            "crates/legacy/src/wire/mesh/line.rs a_first_line_is_split_at_its_first_colon",
            "crates/legacy/src/wire/mesh/line.rs an_id_is_accepted_up_to_its_limit_and_names_and_talk_are_truncated",
        ]),
    },
];
