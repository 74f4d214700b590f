//! The limits of this crate on input from outside, as p2pfs(8) lists them.

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

/// Every limit of this crate, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "node::inbox::receive::COMING_MAX",
        value: LimitValue::Count(crate::inbox::receive::COMING_MAX as u64),
        text: "files that are on their way at one time, of all nodes. A further one waits at \
               its sender until one of them has come, for up to 15 minutes.",
        tests: LimitTests::By(&[
            "crates/node/src/inbox/receive/tests.rs concurrent_files_of_all_nodes_are_bounded",
        ]),
    },
    Limit {
        name: "node::inbox::receive::COMING_OF_NODE_MAX",
        value: LimitValue::Count(crate::inbox::receive::COMING_OF_NODE_MAX as u64),
        text: "of these, of one sender: a member by its certificate or, where members have a \
               secret file, one address.",
        tests: LimitTests::By(&[
            "crates/node/src/inbox/receive/tests.rs concurrent_files_of_all_nodes_are_bounded",
            "crates/node/src/inbox/receive/tests.rs a_full_inbox_refuses_and_a_file_beyond_the_concurrent_limit_waits",
            "tests/daemons/mesh/cluster.rs more_files_than_an_inbox_accepts_at_once_are_sent_one_after_the_other",
        ]),
    },
    Limit {
        name: "node::inbox::store::FILES_MAX",
        value: LimitValue::Count(crate::inbox::store::FILES_MAX),
        text: "files that the folder takes; a person looks through no more.",
        tests: LimitTests::By(&[
            "crates/node/src/inbox/store/tests.rs a_folder_at_its_limit_of_files_accepts_no_more",
        ]),
    },
    Limit {
        name: "node::machine::EVENTS_MAX",
        value: LimitValue::Count(crate::machine::EVENTS_MAX as u64),
        text: "events that wait to be taken.",
        tests: LimitTests::By(&["crates/node/src/machine/tests.rs unread_messages_are_bounded"]),
    },
    Limit {
        name: "node::machine::UNSAID_MAX",
        value: LimitValue::Count(crate::machine::UNSAID_MAX as u64),
        text: "own facts that wait for the next head; more are recorded at once, before it.",
        tests: LimitTests::By(&[
            "crates/node/src/machine/tests.rs own_facts_beyond_the_queue_limit_are_recorded_at_once",
        ]),
    },
    Limit {
        name: "node::machine::lists::LISTS_AT_ONCE",
        value: LimitValue::Count(crate::machine::lists::LISTS_AT_ONCE as u64),
        text: "lists of readers that name this node which are taken from one author at once.",
        tests: LimitTests::By(&[
            "crates/node/src/machine/tests/lists.rs an_endless_sender_of_reader_lists_delays_only_itself",
        ]),
    },
    Limit {
        name: "node::machine::lists::LISTS_PER_S",
        value: LimitValue::Count(crate::machine::lists::LISTS_PER_S as u64),
        text: "and a second in the long run; the author's log waits until then.",
        tests: LimitTests::By(&[
            "crates/node/src/machine/tests/lists.rs an_endless_sender_of_reader_lists_delays_only_itself",
        ]),
    },
    Limit {
        name: "node::machine::questions::LOG_REQUESTS_MAX",
        value: LimitValue::Count(crate::machine::questions::LOG_REQUESTS_MAX as u64),
        text: "questions for logs under way; further logs wait for their turn.",
        tests: LimitTests::By(&[
            "crates/node/src/machine/tests/questions.rs pending_requests_are_bounded_for_each_node_and_in_total_and_logs_have_their_own_bound",
        ]),
    },
    Limit {
        name: "node::machine::questions::REQUESTS_EACH_MAX",
        value: LimitValue::Count(crate::machine::questions::REQUESTS_EACH_MAX as u64),
        text: "of the other questions, to one node.",
        tests: LimitTests::By(&[
            "crates/node/src/machine/tests/questions.rs pending_requests_are_bounded_for_each_node_and_in_total_and_logs_have_their_own_bound",
        ]),
    },
    Limit {
        name: "node::machine::questions::REQUESTS_MAX",
        value: LimitValue::Count(crate::machine::questions::REQUESTS_MAX as u64),
        text: "questions under way to other nodes, those for logs left out; further ones wait \
               for answers, or for the next push-pull.",
        tests: LimitTests::By(&[
            "crates/node/src/machine/tests/questions.rs pending_requests_are_bounded_for_each_node_and_in_total_and_logs_have_their_own_bound",
        ]),
    },
    Limit {
        name: "node::mailbox::BEHIND_MAX",
        value: LimitValue::Count(crate::mailbox::BEHIND_MAX as u64),
        text: "messages of others that a program may be behind before some are lost.",
        tests: LimitTests::By(&[
            "crates/node/src/mailbox.rs an_idle_reader_holds_a_limited_number_of_messages",
        ]),
    },
    Limit {
        name: "node::pulls::PULLS_AT_ONCE_MAX",
        value: LimitValue::Count(crate::pulls::PULLS_AT_ONCE_MAX as u64),
        text: "maximum number of logs that are pulled at once from their authors, and also from \
               other members.",
        tests: LimitTests::By(&["crates/node/src/pulls/tests.rs concurrent_pulls_are_bounded"]),
    },
    Limit {
        name: "node::pulls::PULLS_PER_MEMBER_MAX",
        value: LimitValue::Count(crate::pulls::PULLS_PER_MEMBER_MAX as u64),
        text: "maximum number of logs of other authors that are pulled at once from one member.",
        tests: LimitTests::By(&[
            "crates/node/src/pulls/tests.rs a_member_that_announces_many_logs_and_gives_none_delays_no_log_of_another_member",
        ]),
    },
];
