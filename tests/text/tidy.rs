//! Rules of the tree that neither the compiler nor clippy can check: waits and declarations of
//! tests, and the amount of code that runs with the right to mount.

use crate::tree::sources;

fn assert_none(broken: Vec<String>, rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Returns the part of a file before its inline tests.
pub(crate) fn product_code(text: &str) -> &str {
    let mark = "#[cfg(test)]\n";
    let are_here = |at: &usize| {
        let next = text[at + mark.len()..].lines().next().unwrap_or_default();
        next.contains("mod ") && next.ends_with('{')
    };
    let mut marks = text.match_indices(mark).map(|(at, _)| at);
    &text[..marks.find(are_here).unwrap_or(text.len())]
}

fn is_test_file(name: &str) -> bool {
    name.contains("/tests") || name.ends_with("_tests.rs") || name.contains("simulation")
}

/// Returns the number of lines of product code without comments and blank lines.
fn code_lines(folder: &str) -> usize {
    let sources = sources(folder);
    let product = sources.iter().filter(|s| !is_test_file(&s.name));
    let lines = product.flat_map(|s| product_code(&s.text).lines());
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    lines.filter(is_code).count()
}

#[test]
fn the_code_with_the_right_to_mount_is_short() {
    let list = code_lines("crates/fuse/src/broker/filter.rs")
        + code_lines("crates/fuse/src/broker/protocol.rs");
    let broker = code_lines("crates/fuse/src/broker");
    let calls =
        code_lines("crates/fuse/src/mounting") + code_lines("crates/types/src/files/mountinfo.rs");
    assert!(list > 100 && calls > 100, "counted: {list}, {calls}");
    let decides = broker - list;
    assert!(decides < 300, "{decides} lines decide");
    assert!(broker < 500, "{broker} lines are the broker's own");
    assert!(broker + calls < 1100, "{broker} and {calls} lines");
}

#[test]
fn tests_that_need_something_of_the_machine_say_so() {
    let attribute = concat!("#[", "test]");
    let broken = ["tests/mount", "tests/daemons", "tests/system"]
        .into_iter()
        .flat_map(sources)
        .filter(|s| s.text.contains(attribute))
        .map(|s| {
            format!(
                "{}: {attribute} is never run here; #[apply(promise)] is",
                s.name
            )
        })
        .collect();
    assert_none(broken, "a test that no binary runs");
}

/// Files where a test may let time pass, with the reason.
const PAUSES: &[(&str, &str)] = &[
    (
        "tests/support/process.rs",
        "asks again, until a limit fails it",
    ),
    (
        "tests/support/legacy_peer.rs",
        "the pauses that the protocol has",
    ),
];

#[test]
fn no_test_sleeps_for_luck() {
    let sleeps = ["thread::sleep(", "time::sleep(", "park_timeout("];
    let broken = sources("tests")
        .iter()
        .filter(|s| s.name != "tests/text/tidy.rs")
        .filter(|s| !PAUSES.iter().any(|(file, _)| *file == s.name))
        .flat_map(|s| s.text.lines().map(move |line| (s, line)))
        .filter(|(_, line)| sleeps.iter().any(|sleep| line.contains(sleep)))
        .map(|(s, line)| format!("{}: {}", s.name, line.trim()))
        .collect();
    assert_none(broken, "a test that sleeps");
}
