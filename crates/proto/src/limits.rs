//! The list of this crate's limits for p2pfs(8).

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

/// The limits of this crate that p2pfs(8) lists, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "proto::trust::exchange::EXCHANGE_MAX_BYTES",
        value: LimitValue::Bytes(crate::trust::exchange::EXCHANGE_MAX_BYTES as u64),
        text: "the longest question or answer.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/exchange.rs a_request_is_read_up_to_its_limit",
        ]),
    },
    Limit {
        name: "proto::trust::invites::INVITES_MAX",
        value: LimitValue::Count(crate::trust::invites::INVITES_MAX as u64),
        text: "the most invitations that wait at once; issuing more is refused until one is \
               used or ends.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/invites.rs the_table_is_bounded_and_drops_expired_invitations",
        ]),
    },
    Limit {
        name: "proto::trust::invites::USED_INVITES_MAX",
        value: LimitValue::Count(crate::trust::invites::USED_INVITES_MAX as u64),
        text: "the most used invitations that are kept for their nodes, whose answer may have been \
               lost.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/invites.rs used_invitations_are_kept_up_to_their_limit",
        ]),
    },
    Limit {
        name: "proto::trust::keyring::WAITING_MAX",
        value: LimitValue::Count(crate::trust::WAITING_MAX as u64),
        text: "the most changes of the membership that wait for a disk that does not answer. Further \
               ones are refused.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/keyring/tests/storing.rs waiting_commands_are_bounded",
        ]),
    },
    Limit {
        name: "proto::trust::ledger::CHAIN_MAX_BYTES",
        value: LimitValue::Bytes(crate::trust::CHAIN_MAX_BYTES as u64),
        text: "the longest chain of certificates that a node shows.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/keyring/tests.rs a_chain_is_accepted_up_to_its_limit_of_bytes",
        ]),
    },
    Limit {
        name: "proto::trust::ledger::CHAIN_MAX",
        value: LimitValue::Count(crate::trust::ledger::CHAIN_MAX as u64),
        text: "statements that a node presents itself with: from the founding to its own \
               certificate.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/ledger/tests.rs a_chain_is_bounded_and_no_node_is_admitted_below_it",
        ]),
    },
    Limit {
        name: "proto::trust::ledger::FAREWELLS_PER_MEMBERSHIP_MAX",
        value: LimitValue::Count(crate::trust::ledger::FAREWELLS_PER_MEMBERSHIP_MAX as u64),
        text: "statements by a node without the right to admit that end one membership of it.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/ledger/tests/converging.rs ledgers_agree_on_a_member_that_leaves_without_end_in_any_order",
        ]),
    },
    Limit {
        name: "proto::trust::ledger::STATEMENTS_MAX",
        value: LimitValue::Count(crate::trust::ledger::STATEMENTS_MAX as u64),
        text: "statements in a ledger; further ones are refused.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/ledger/tests.rs a_ledger_accepts_statements_up_to_its_limit",
        ]),
    },
    Limit {
        name: "proto::trust::ledger::STATEMENTS_PER_ADMIN_MAX",
        value: LimitValue::Count(crate::trust::ledger::STATEMENTS_PER_ADMIN_MAX as u64),
        text: "of these, by one node that may admit; what one makes others keep.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/ledger/tests.rs the_statements_that_one_administrator_can_make_others_store_are_bounded",
        ]),
    },
    Limit {
        name: "proto::trust::statement::OWNED_PATH_MAX_BYTES",
        value: LimitValue::Bytes(crate::trust::statement::OWNED_PATH_MAX_BYTES as u64),
        text: "the longest path that a node can be made the owner of: a statement has room for \
               it.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/ledger/tests.rs an_administrator_assigns_a_path_and_the_last_statement_counts",
            "crates/proto/src/trust/ledger/tests.rs the_longest_claim_to_a_path_fits_a_statement",
        ]),
    },
    Limit {
        name: "proto::trust::statement::STATEMENT_MAX_BYTES",
        value: LimitValue::Bytes(crate::trust::statement::STATEMENT_MAX_BYTES as u64),
        text: "the longest encoded statement: one that gives the longest path has 314 bytes.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/statement.rs the_longest_statement_is_within_its_limit_and_round_trips",
            "crates/proto/src/trust/ledger/tests.rs the_longest_claim_to_a_path_fits_a_statement",
        ]),
    },
    Limit {
        name: "proto::trust::token::TOKEN_MAX_BYTES",
        value: LimitValue::Bytes(crate::trust::token::TOKEN_MAX_BYTES as u64),
        text: "the longest text that is looked at: eight IPv6 seeds make 374 characters.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/token.rs a_text_over_the_limit_is_not_parsed",
        ]),
    },
    Limit {
        name: "proto::trust::token::TOKEN_SEEDS_MAX",
        value: LimitValue::Count(crate::trust::token::TOKEN_SEEDS_MAX as u64),
        text: "the most seed addresses in one token.",
        tests: LimitTests::By(&[
            "crates/proto/src/trust/token.rs the_longest_token_is_within_the_limit_of_parsing",
        ]),
    },
    Limit {
        name: "proto::wire::native::link::LINK_TARGET_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::link::LINK_TARGET_MAX_BYTES as u64),
        text: "the longest target of a symbolic link in bytes, as for a path (PATH_MAX, \
               limits.h).",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs a_fact_is_accepted_at_each_limit_and_refused_beyond",
        ]),
    },
    Limit {
        name: "proto::wire::native::record::FILE_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::record::FILE_MAX_BYTES),
        text: "the largest size of a file: what fits a signed 64-bit offset (off_t), as for \
               every filesystem.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs a_fact_is_accepted_at_each_limit_and_refused_beyond",
        ]),
    },
    Limit {
        name: "proto::wire::native::record::KEEP_PATHS_MAX",
        value: LimitValue::Count(crate::wire::native::record::KEEP_PATHS_MAX as u64),
        text: "maximum number of paths that one node announces to keep.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/keepers.rs offer_beyond_its_limits_is_refused",
        ]),
    },
    Limit {
        name: "proto::wire::native::record::KEEP_PATHS_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::record::KEEP_PATHS_MAX_BYTES as u64),
        text: "maximum length of these paths together.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/keepers.rs offer_beyond_its_limits_is_refused",
        ]),
    },
    Limit {
        name: "proto::wire::native::record::PATH_MAX_DEPTH",
        value: LimitValue::Count(crate::wire::native::record::PATH_MAX_DEPTH as u64),
        text: "the most directories above a name, itself counted: far more than trees that \
               people make have, and a bound on what one record can make others keep.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs a_fact_is_accepted_at_each_limit_and_refused_beyond",
        ]),
    },
    Limit {
        name: "proto::wire::native::record::READERS_MAX",
        value: LimitValue::Count(crate::wire::native::record::READERS_MAX as u64),
        text: "the most readers that a share can have: far more than people who share something \
               among themselves, and a bound on what one record makes others keep.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs limits_of_readers_and_sealed_bytes_are_inclusive",
        ]),
    },
    Limit {
        name: "proto::wire::native::record::REPLACES_MAX",
        value: LimitValue::Count(crate::wire::native::record::REPLACES_MAX as u64),
        text: "maximum number of contents that one version replaces, or that one deletion deletes. \
               Of more, the newest are named.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs a_fact_is_accepted_at_each_limit_and_refused_beyond",
            "crates/catalogue/src/tests/replacing.rs a_deletion_keeps_its_newest_contents",
        ]),
    },
    Limit {
        name: "proto::wire::native::record::SEALED_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::record::SEALED_MAX_BYTES as u64),
        text: "the longest path that is sealed, and the longest entry: what they are sealed \
               from, and as much again as sealing adds and an entry has besides a link's \
               target.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs limits_of_readers_and_sealed_bytes_are_inclusive",
        ]),
    },
    Limit {
        name: "proto::wire::native::record::SENDER_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::record::SENDER_MAX_BYTES as u64),
        text: "the longest name of the sender of a file.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs a_fact_is_accepted_at_each_limit_and_refused_beyond",
        ]),
    },
    Limit {
        name: "proto::wire::native::record::SHARES_MAX",
        value: LimitValue::Count(crate::wire::native::record::SHARES_MAX as u64),
        text: "how many shares one node can number: the number of each is below this one.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs a_fact_is_accepted_at_each_limit_and_refused_beyond",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::CHAIN_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::CHAIN_MAX_BYTES as u64),
        text: "the longest chain of certificates in a greeting: 16 of them.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs a_frame_of_its_kinds_limit_is_sent_and_a_longer_one_is_not",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::FILE_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::FILE_MAX_BYTES),
        text: "the largest file that can be asked for: what a file offset of Linux can say.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs the_longest_range_of_the_largest_file_can_be_requested",
            "crates/proto/src/wire/native/tcp/push.rs a_push_round_trips",
            "crates/proto/src/wire/native/tcp/push.rs a_message_over_a_limit_is_neither_sent_nor_accepted",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::HEADS_MAX",
        value: LimitValue::Count(crate::wire::native::tcp::HEADS_MAX as u64),
        text: "the most heads in one frame; more go in several requests.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs limits_of_head_and_range_lists_are_inclusive",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::HEADS_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::HEADS_MAX_BYTES as u64),
        text: "the longest frame of heads: 300 bytes a head at most (tested beside the record).",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs a_frame_of_its_kinds_limit_is_sent_and_a_longer_one_is_not",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::HOLDINGS_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::HOLDINGS_MAX_BYTES as u64),
        text: "the longest description of what a node holds: two varints of at most 10 bytes a \
               range.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs a_frame_of_its_kinds_limit_is_sent_and_a_longer_one_is_not",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::HOLDINGS_RANGES_MAX",
        value: LimitValue::Count(crate::wire::native::tcp::HOLDINGS_RANGES_MAX as u64),
        text: "the most ranges in one description of what a node holds of a file.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs holdings_of_any_shape_decode_within_their_limit",
            "crates/proto/src/wire/native/tcp/tests.rs a_list_that_announces_more_than_its_limit_is_refused",
            "crates/proto/src/wire/native/tcp/tests.rs limits_of_head_and_range_lists_are_inclusive",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::MEMBERS_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::MEMBERS_MAX_BYTES as u64),
        text: "the longest member list: some 100 bytes a member for ten thousand of them.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs a_frame_of_its_kinds_limit_is_sent_and_a_longer_one_is_not",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::RANGE_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::RANGE_MAX_BYTES),
        text: "the most bytes of a file that one request asks for: 1 MiB, the largest read of \
               the kernel.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs the_longest_range_of_the_largest_file_can_be_requested",
            "crates/proto/src/wire/native/tcp/tests.rs a_range_outside_its_file_or_over_the_limit_is_refused_by_both_ends",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::REASON_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::REASON_MAX_BYTES as u64),
        text: "the longest reason of a refusal; a longer one is cut when it is sent.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs a_frame_of_its_kinds_limit_is_sent_and_a_longer_one_is_not",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::TRUST_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::TRUST_MAX_BYTES as u64),
        text: "the longest question or answer about who is in: 4096 statements.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs a_frame_of_its_kinds_limit_is_sent_and_a_longer_one_is_not",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::batch::BATCH_FILES_MAX",
        value: LimitValue::Count(crate::wire::native::tcp::batch::BATCH_FILES_MAX as u64),
        text: "the most files of one batch: some hundred KiB of a source tree or of mail.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/batch.rs a_request_over_a_limit_is_neither_sent_nor_accepted",
            "crates/proto/src/wire/native/tcp/batch.rs an_answer_with_more_or_longer_parts_than_allowed_is_refused",
            "crates/proto/src/wire/native/tcp/batch.rs hostile_bytes_are_refused_or_within_the_limits",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::batch::BATCH_FILE_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::batch::BATCH_FILE_MAX_BYTES),
        text: "the largest file of a batch: one chunk, whose proof is nothing but its bytes.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/batch.rs a_request_round_trips",
            "crates/proto/src/wire/native/tcp/batch.rs a_request_over_a_limit_is_neither_sent_nor_accepted",
            "crates/proto/src/wire/native/tcp/batch.rs an_answer_with_more_or_longer_parts_than_allowed_is_refused",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::batch::BATCH_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::batch::BATCH_MAX_BYTES),
        text: "the most bytes of the files of one batch together: as much as one range.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/batch.rs a_request_at_its_limits_is_sent_and_accepted",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::frame::FRAME_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::frame::FRAME_MAX_BYTES as u64),
        text: "the longest body of any frame. A range of 1 MiB with its proof takes a little more \
               than half of it.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs a_frame_of_its_kinds_limit_is_sent_and_a_longer_one_is_not",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::log::LOG_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::log::LOG_MAX_BYTES as u64),
        text: "the longest frame of a piece: what zstd makes of 1 MiB that it cannot compress \
               (its own bound adds 1/256), and the head.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs a_frame_of_its_kinds_limit_is_sent_and_a_longer_one_is_not",
            "crates/proto/src/wire/native/tcp/tests.rs a_log_part_is_decompressed_up_to_its_records_and_length",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::log::LOG_RECORDS_MAX",
        value: LimitValue::Count(crate::wire::native::tcp::log::LOG_RECORDS_MAX as u64),
        text: "the most records in one piece.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/tests.rs packing_takes_as_much_as_fits_and_reports_it",
            "crates/proto/src/wire/native/tcp/tests.rs a_log_part_is_decompressed_up_to_its_records_and_length",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::push::GIVEN_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::push::GIVEN_MAX_BYTES as u64),
        text: "the most bytes of a file in one frame.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/push.rs a_message_over_a_limit_is_neither_sent_nor_accepted",
            "crates/proto/src/wire/native/tcp/push.rs a_push_round_trips",
        ]),
    },
    Limit {
        name: "proto::wire::native::tcp::push::SAID_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::tcp::push::SAID_MAX_BYTES as u64),
        text: "the longest line of talk.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/tcp/push.rs a_message_over_a_limit_is_neither_sent_nor_accepted",
            "crates/proto/src/wire/native/tcp/push.rs a_push_round_trips",
        ]),
    },
    Limit {
        name: "proto::wire::native::udp::BODY_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::udp::BODY_MAX_BYTES as u64),
        text: "the longest encoded Body.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/udp/tests.rs limits_of_a_body_and_its_parts_are_inclusive",
        ]),
    },
    Limit {
        name: "proto::wire::native::udp::DATAGRAM_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::udp::DATAGRAM_MAX_BYTES as u64),
        text: "the longest datagram: fits the smallest link that IPv6 allows (1280 bytes, RFC \
               8200 section 5) with its headers and a tunnel's.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/udp/tests.rs another_magic_version_or_length_is_refused",
            "crates/proto/src/wire/native/udp/tests.rs a_datagram_of_the_maximum_length_is_parsed",
        ]),
    },
    Limit {
        name: "proto::wire::native::udp::HEAD_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::udp::HEAD_MAX_BYTES as u64),
        text: "the longest head that gossip carries.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/udp/tests.rs values_over_a_limit_are_neither_written_nor_read",
            "crates/proto/src/wire/native/udp/tests.rs limits_of_a_body_and_its_parts_are_inclusive",
        ]),
    },
    Limit {
        name: "proto::wire::native::udp::PAYLOAD_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::udp::PAYLOAD_MAX_BYTES as u64),
        text: "the longest payload of Swim and Message: leaves room for the rest of a body with \
               its longest proof.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/udp/tests.rs values_over_a_limit_are_neither_written_nor_read",
            "crates/proto/src/wire/native/udp/tests.rs the_longest_payload_fits_with_the_longest_proof",
        ]),
    },
    Limit {
        name: "proto::wire::native::udp::STATEMENT_MAX_BYTES",
        value: LimitValue::Bytes(crate::wire::native::udp::STATEMENT_MAX_BYTES as u64),
        text: "the longest statement about who is in that gossip carries.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/udp/tests.rs limits_of_a_body_and_its_parts_are_inclusive",
        ]),
    },
    Limit {
        name: "proto::wire::native::udp::message::GET_HASHES_MAX",
        value: LimitValue::Count(crate::wire::native::udp::message::GET_HASHES_MAX as u64),
        text: "how many files one Get asks for: what fits PAYLOAD_MAX_BYTES.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/udp/tests.rs the_longest_messages_fit_a_payload",
            "crates/proto/src/wire/native/udp/tests.rs lists_over_their_limits_are_refused",
        ]),
    },
    Limit {
        name: "proto::wire::native::udp::message::OFFER_ASKERS_MAX",
        value: LimitValue::Count(crate::wire::native::udp::message::OFFER_ASKERS_MAX as u64),
        text: "how many recent askers one Offer names.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/udp/tests.rs the_longest_messages_fit_a_payload",
            "crates/proto/src/wire/native/udp/tests.rs lists_over_their_limits_are_refused",
        ]),
    },
    Limit {
        name: "proto::wire::native::udp::message::OFFER_RANGES_MAX",
        value: LimitValue::Count(crate::wire::native::udp::message::OFFER_RANGES_MAX as u64),
        text: "how many ranges one Offer lists; what has more is cut to its longest ranges.",
        tests: LimitTests::By(&[
            "crates/proto/src/wire/native/udp/tests.rs the_longest_messages_fit_a_payload",
            "crates/proto/src/wire/native/udp/tests.rs lists_over_their_limits_are_refused",
        ]),
    },
];
