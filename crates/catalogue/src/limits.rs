//! The limits of this crate on input from outside, as p2pfs(8) lists them.

use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

/// Every limit of this crate, in the order of their names.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "catalogue::CHANGES_MAX",
        value: LimitValue::Count(crate::CHANGES_MAX as u64),
        text: "maximum number of changes of the namespace that wait to be processed. More become \
               one change of everything.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/change.rs changes_beyond_the_limit_become_one_change_of_everything",
            "crates/catalogue/src/tests/changes.rs changes_beyond_the_limit_report_everything_once",
        ]),
    },
    Limit {
        name: "catalogue::FRESH_PULLS_MAX",
        value: LimitValue::Count(crate::FRESH_PULLS_MAX as u64),
        text: "maximum number of consecutive retries of the pull of one author's log after the \
               log did not match its head. After the last one, only a newer head starts another \
               pull.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/forged.rs a_forged_log_is_never_shown_and_is_pulled_again_a_few_times",
        ]),
    },
    Limit {
        name: "catalogue::NODES_MAX",
        value: LimitValue::Count(crate::NODES_MAX as u64),
        text: "maximum number of nodes with a log or a known liveness. A further node that is live \
               displaces one that is not. Any other is refused.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/pulls.rs logs_and_nodes_over_their_limits_are_refused",
        ]),
    },
    Limit {
        name: "catalogue::OWN_RECOVERIES_MAX",
        value: LimitValue::Count(crate::OWN_RECOVERIES_MAX as u64),
        text: "maximum number of times that this node moves to a higher epoch in one run. More \
               often means that another node has a copy of its key and does the same. The count \
               restarts once that node is gone.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/pulls.rs two_nodes_that_outbid_each_other_reveal_a_copied_key",
        ]),
    },
    Limit {
        name: "catalogue::PART_MAX_BYTES",
        value: LimitValue::Bytes(crate::PART_MAX_BYTES as u64),
        text: "maximum estimated bytes in one part of a log. A single record may exceed it.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs limits_of_records_and_bytes_in_a_part_are_inclusive",
        ]),
    },
    Limit {
        name: "catalogue::PART_MAX_RECORDS",
        value: LimitValue::Count(crate::PART_MAX_RECORDS as u64),
        text: "maximum number of records in one part of a log.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs limits_of_records_and_bytes_in_a_part_are_inclusive",
        ]),
    },
    Limit {
        name: "catalogue::RECORDS_PER_AUTHOR_MAX",
        value: LimitValue::Count(crate::RECORDS_PER_AUTHOR_MAX as u64),
        text: "maximum number of records of one author, including tombstones. A log that claims \
               more is refused whole.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/pulls.rs logs_and_nodes_over_their_limits_are_refused",
        ]),
    },
    Limit {
        name: "catalogue::TOLD_NODES_MAX",
        value: LimitValue::Count(crate::TOLD_NODES_MAX as u64),
        text: "maximum number of nodes that were never live here and have a log only because other \
               members told of them. Further ones are refused until they are live.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/pulls.rs told_nodes_are_bounded_by_teller_and_in_total_and_leave_room_for_live_ones",
        ]),
    },
    Limit {
        name: "catalogue::TOLD_NODES_PER_TELLER_MAX",
        value: LimitValue::Count(crate::TOLD_NODES_PER_TELLER_MAX as u64),
        text: "maximum number of such nodes (TOLD_NODES_MAX) that one member told of.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/pulls.rs told_nodes_are_bounded_by_teller_and_in_total_and_leave_room_for_live_ones",
        ]),
    },
    Limit {
        name: "catalogue::audience::MARKS_MAX",
        value: LimitValue::Count(crate::audience::MARKS_MAX as u64),
        text: "maximum number of private contents without a name that are remembered. Above it, \
               contents without a name are refused to every node.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/audience.rs no_more_marks_of_all_authors_are_kept_than_the_limit",
        ]),
    },
    Limit {
        name: "catalogue::audience::MARKS_MAX_PER_AUTHOR",
        value: LimitValue::Count(crate::audience::MARKS_MAX_PER_AUTHOR as u64),
        text: "maximum number of remembered private contents of one author, so that one author \
               cannot use up MARKS_MAX.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/audience.rs no_more_marks_of_all_authors_are_kept_than_the_limit",
            "crates/catalogue/src/audience.rs an_author_with_marks_beyond_its_limit_takes_no_room_from_others",
        ]),
    },
    Limit {
        name: "catalogue::budget::AUTHOR_MAX_BYTES",
        value: LimitValue::Bytes(crate::budget::AUTHOR_MAX_BYTES),
        text: "maximum estimated memory for the names of one author. It allows about four \
               million names, as many as a log may have (RECORDS_PER_AUTHOR_MAX).",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
            "crates/catalogue/src/tests/budgets.rs long_names_and_link_targets_count_by_their_bytes",
        ]),
    },
    Limit {
        name: "catalogue::budget::AUTHOR_MAX_DIRECTORIES",
        value: LimitValue::Count(crate::budget::AUTHOR_MAX_DIRECTORIES),
        text: "maximum number of directories of one author. A home directory with all its \
               installed software has fewer.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
            "crates/catalogue/src/tests/budgets.rs an_author_at_its_budget_is_kept_and_one_more_directory_drops_it_entirely",
        ]),
    },
    Limit {
        name: "catalogue::budget::AUTHOR_MAX_REPLACED",
        value: LimitValue::Count(crate::budget::AUTHOR_MAX_REPLACED),
        text: "maximum number of contents that the records of one author replace and delete. This \
               node refuses its own deletions beyond it.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
            "crates/catalogue/src/tests/replacing.rs a_log_without_room_refuses_a_deletion",
            "crates/catalogue/src/tests/replacing.rs a_member_that_floods_with_deletions_is_dropped_whole_and_named",
        ]),
    },
    Limit {
        name: "catalogue::budget::TOTAL_MAX_BYTES",
        value: LimitValue::Bytes(crate::budget::TOTAL_MAX_BYTES),
        text: "maximum estimated memory for the names of all other nodes together.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
        ]),
    },
    Limit {
        name: "catalogue::budget::TOTAL_MAX_DIRECTORIES",
        value: LimitValue::Count(crate::budget::TOTAL_MAX_DIRECTORIES),
        text: "maximum number of directories of all other nodes together. A directory that \
               several nodes have counts once for each.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
            "crates/catalogue/src/tests/budgets.rs over_the_total_the_longest_departed_nodes_are_dropped_first",
        ]),
    },
    Limit {
        name: "catalogue::budget::TOTAL_MAX_REPLACED",
        value: LimitValue::Count(crate::budget::TOTAL_MAX_REPLACED),
        text: "maximum number of contents that the records of all other nodes together replace and \
               delete.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/limits.rs default_budgets_match_the_manual",
            "crates/catalogue/src/tests/replacing.rs a_member_that_floods_with_deletions_is_dropped_whole_and_named",
        ]),
    },
    Limit {
        name: "catalogue::forgotten::FORGOTTEN_MAX",
        value: LimitValue::Count(crate::forgotten::FORGOTTEN_MAX as u64),
        text: "maximum number of nodes dropped by p2pfs forget that are remembered. Beyond it, \
               one of them is no longer remembered. The dropped entries of that node return if \
               another node has them.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/forgotten.rs forgetting_is_remembered_for_at_most_the_limit_of_nodes",
        ]),
    },
    Limit {
        name: "catalogue::unserved::UNSERVED_MAX",
        value: LimitValue::Count(crate::unserved::UNSERVED_MAX as u64),
        text: "maximum number of contents that rank behind the other versions of their names \
               because no holder delivered them. Beyond it, one content of the node with the most \
               of them ranks by the usual rules again: the one that would do so first anyway.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/unserved.rs beyond_the_limit_of_marks_the_first_to_expire_ends",
            "crates/catalogue/src/tests/unserved.rs author_with_many_marks_ends_no_mark_of_another_author",
        ]),
    },
    Limit {
        name: "catalogue::unserved::UNSERVED_PER_AUTHOR",
        value: LimitValue::Count(crate::unserved::UNSERVED_PER_AUTHOR as u64),
        text: "number of undelivered contents (UNSERVED_MAX) and names (WITHHELD_NAMES_MAX) of one \
               author from which on all its versions rank behind those of other authors, until one \
               of them is delivered. Also the number of undelivered versions of one name from which \
               on the author's versions of this name rank so, if the reads failed over ten seconds \
               (a minute with refusals).",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/unserved.rs author_of_several_unserved_contents_ranks_behind_until_one_is_served",
            "crates/catalogue/src/tests/unserved.rs author_that_was_silent_for_several_replaced_versions_loses_the_name_and_is_at_fault",
        ]),
    },
    Limit {
        name: "catalogue::view::DATING_MAX",
        value: LimitValue::Count(crate::view::DATING_MAX as u64),
        text: "directories that are visited, in the order of their names, for the date of one \
               that has neither a record nor files, such as the place of a share.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/liveness.rs dating_a_directory_visits_a_bounded_number_of_others",
        ]),
    },
    Limit {
        name: "catalogue::withheld::WITHHELD_NAMES_MAX",
        value: LimitValue::Count(crate::withheld::WITHHELD_NAMES_MAX as u64),
        text: "maximum number of pairs of an author and a name for which undelivered versions are \
               counted. Beyond it, the count of one name of the author with the most names begins \
               again.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/unserved.rs names_without_versions_are_bounded_and_displace_no_name_of_another_author",
        ]),
    },
    Limit {
        name: "catalogue::withheld::WITHHELD_NAMES_PER_AUTHOR",
        value: LimitValue::Count(crate::withheld::WITHHELD_NAMES_PER_AUTHOR as u64),
        text: "maximum number of such names (WITHHELD_NAMES_MAX) of one author. Beyond it, the \
               count of one of its names begins again.",
        tests: LimitTests::By(&[
            "crates/catalogue/src/tests/unserved.rs names_without_versions_are_bounded_and_displace_no_name_of_another_author",
        ]),
    },
];
