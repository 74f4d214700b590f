//! The limits of this crate on input from outside, as p2pfs(8) lists them.

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

/// Every limit of this crate, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "catalogue::CHANGES_MAX",
        value: LimitValue::Count(crate::CHANGES_MAX as u64),
        text: "changes kept for poll_change; more become one Everything.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/change.rs changes_beyond_the_limit_become_one_change_of_everything",
            "crates/catalogue/src/tests/changes.rs changes_beyond_the_limit_report_everything_once",
        ]),
    },
    Limit {
        name: "catalogue::FRESH_PULLS_MAX",
        value: LimitValue::Count(crate::FRESH_PULLS_MAX as u64),
        text: "how often in a row one author's log is pulled anew because its digest did not \
               fit, before only a newer head starts it again.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/forged.rs a_forged_log_is_never_shown_and_is_pulled_again_a_few_times",
        ]),
    },
    Limit {
        name: "catalogue::NODES_MAX",
        value: LimitValue::Count(crate::NODES_MAX as u64),
        text: "the most nodes whose logs or liveness are kept; a further one is refused until \
               one is forgotten.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/pulls.rs logs_and_nodes_over_their_limits_are_refused",
        ]),
    },
    Limit {
        name: "catalogue::OWN_RECOVERIES_MAX",
        value: LimitValue::Count(crate::OWN_RECOVERIES_MAX as u64),
        text: "how often in one life this node goes on from a higher epoch; more often means \
               that another node has our key and does the same. Once that one is gone it is \
               counted anew.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/pulls.rs two_nodes_that_outbid_each_other_reveal_a_copied_key",
        ]),
    },
    Limit {
        name: "catalogue::PART_MAX_BYTES",
        value: LimitValue::Bytes(crate::PART_MAX_BYTES as u64),
        text: "the most bytes in one part, as estimated; one record may go over it.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs limits_of_records_and_bytes_in_a_part_are_inclusive",
        ]),
    },
    Limit {
        name: "catalogue::PART_MAX_RECORDS",
        value: LimitValue::Count(crate::PART_MAX_RECORDS as u64),
        text: "the most records in one part of a log.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs limits_of_records_and_bytes_in_a_part_are_inclusive",
        ]),
    },
    Limit {
        name: "catalogue::RECORDS_PER_AUTHOR_MAX",
        value: LimitValue::Count(crate::RECORDS_PER_AUTHOR_MAX as u64),
        text: "the most records of one author, tombstones included; a log that claims more is \
               refused whole.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/pulls.rs logs_and_nodes_over_their_limits_are_refused",
        ]),
    },
    Limit {
        name: "catalogue::audience::MARKS_MAX",
        value: LimitValue::Count(crate::audience::MARKS_MAX as u64),
        text: "contents that are remembered as private after their last name is gone. Beyond \
               it, what has no name is given to nobody.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/audience.rs no_more_marks_of_all_authors_are_kept_than_the_limit",
        ]),
    },
    Limit {
        name: "catalogue::audience::MARKS_MAX_PER_AUTHOR",
        value: LimitValue::Count(crate::audience::MARKS_MAX_PER_AUTHOR as u64),
        text: "and how many of them are of one author, so that none takes the room of all \
               others.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/audience.rs no_more_marks_of_all_authors_are_kept_than_the_limit",
            "crates/catalogue/src/audience.rs an_author_with_marks_beyond_its_limit_takes_no_room_from_others",
        ]),
    },
    Limit {
        name: "catalogue::budget::AUTHOR_MAX_BYTES",
        value: LimitValue::Bytes(crate::budget::AUTHOR_MAX_BYTES),
        text: "what the names of one author may take in memory, as estimated: about four \
               million of them, as many as a log may have (RECORDS_PER_AUTHOR_MAX).",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
            "crates/catalogue/src/tests/budgets.rs long_names_and_link_targets_count_by_their_bytes",
        ]),
    },
    Limit {
        name: "catalogue::budget::AUTHOR_MAX_DIRECTORIES",
        value: LimitValue::Count(crate::budget::AUTHOR_MAX_DIRECTORIES),
        text: "the directories of one author: a home with everything that was ever installed \
               has fewer.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
            "crates/catalogue/src/tests/budgets.rs an_author_at_its_budget_is_kept_and_one_more_directory_drops_it_entirely",
        ]),
    },
    Limit {
        name: "catalogue::budget::TOTAL_MAX_BYTES",
        value: LimitValue::Bytes(crate::budget::TOTAL_MAX_BYTES),
        text: "what the names of all other nodes may take in memory together, as estimated.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
        ]),
    },
    Limit {
        name: "catalogue::budget::TOTAL_MAX_DIRECTORIES",
        value: LimitValue::Count(crate::budget::TOTAL_MAX_DIRECTORIES),
        text: "the directories of all other nodes together, those that several of them have \
               counted for each.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
            "crates/catalogue/src/tests/budgets.rs over_the_total_the_longest_departed_nodes_are_dropped_first",
        ]),
    },
    Limit {
        name: "catalogue::forgotten::FORGOTTEN_MAX",
        value: LimitValue::Count(crate::forgotten::FORGOTTEN_MAX as u64),
        text: "nodes of which it is remembered up to where p2pfs forget dropped their entries; \
               beyond it that ends for one of them, whose entries are then taken again where \
               another node has them.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/forgotten.rs forgetting_is_remembered_for_at_most_the_limit_of_nodes",
        ]),
    },
    Limit {
        name: "catalogue::unserved::UNSERVED_MAX",
        value: LimitValue::Count(crate::unserved::UNSERVED_MAX as u64),
        text: "contents that rank behind the other versions of their names because no holder \
               gave them; beyond it, the one that has ranked so for the longest ranks by the \
               usual rules again.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/unserved.rs beyond_the_limit_of_marks_the_first_to_expire_ends",
        ]),
    },
    Limit {
        name: "catalogue::unserved::UNSERVED_PER_AUTHOR",
        value: LimitValue::Count(crate::unserved::UNSERVED_PER_AUTHOR as u64),
        text: "such contents of one author from which on all its versions rank behind those of \
               others, until one of them is given.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/unserved.rs author_of_several_unserved_contents_ranks_behind_until_one_is_served",
        ]),
    },
];
