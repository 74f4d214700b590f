//! Rules of the tree that neither the compiler nor clippy can check: waits and declarations of
//! tests, and the levels at which libraries log.

use crate::tree::{Source, sources};

pub(crate) fn assert_none(broken: Vec<String>, rule: &str) {
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

pub(crate) fn is_test_file(name: &str) -> bool {
    name.contains("/tests") || name.ends_with("_tests.rs") || name.contains("simulation")
}

fn is_code(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_start().starts_with("//")
}

/// Returns the lines of product code in these folders that break a rule, each with its file.
fn lines_against(folders: &[&str], is_broken: impl Fn(&str) -> bool) -> Vec<String> {
    let sources = folders.iter().flat_map(|folder| sources(folder));
    let product = sources.filter(|s| s.name.contains("src/") && !is_test_file(&s.name));
    let broken_of = |s: Source| {
        let lines = product_code(&s.text).lines();
        let broken = lines.filter(|line| is_code(line) && is_broken(line));
        let named = broken.map(|line| format!("{}: {}", s.name, line.trim()));
        named.collect::<Vec<_>>()
    };
    product.flat_map(broken_of).collect()
}

#[test]
fn library_code_logs_at_debug_at_most() {
    let macros = ["info!(", "warn!(", "error!("];
    // A macro with a longer name, such as `compile_error`, does not log.
    let is_named = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let logs_higher = |line: &str| {
        let mut found = macros.iter().flat_map(|it| line.match_indices(it));
        found.any(|(at, _)| !is_named(&line[..at]))
    };
    let broken = lines_against(&["crates"], logs_higher);
    assert_none(broken, "a library that logs above DEBUG");
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

/// Files where a test may let real time pass, with the reason.
const PAUSES: &[(&str, &str)] = &[
    (
        "crates/transfer/src/net/peer/tests/records.rs",
        "packets that arrive apart; a reader that does not wake gives no event",
    ),
    (
        "crates/share/src/tests/mod.rs",
        "asks again, until a limit fails it",
    ),
    (
        "tests/support/process.rs",
        "asks again, until a limit fails it",
    ),
    (
        "tests/support/legacy_peer.rs",
        "the pauses that the protocol has",
    ),
    (
        "tests/system/reach.rs",
        "observes for a fixed time how long nodes are apart",
    ),
];

/// Returns the code of tests in a file: all of it, or the inline tests of product code.
fn test_code(source: &Source) -> &str {
    if source.name.starts_with("tests/") || is_test_file(&source.name) {
        &source.text
    } else {
        &source.text[product_code(&source.text).len()..]
    }
}

/// Returns whether a line calls a function that sleeps, and not a method of that name, such as
/// Python's.
fn sleeps(line: &str) -> bool {
    let is_call = |(at, _): (usize, &str)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
    };
    let is_code = !line.trim_start().starts_with("//");
    let calls = ["sleep(", "park_timeout("];
    is_code && calls.iter().any(|it| line.match_indices(it).any(is_call))
}

/// Returns whether the test around a line, or the first one behind a helper, has virtual time.
fn is_in_virtual_time(lines: &[&str], at: usize) -> bool {
    const MARKS: [&str; 3] = ["#[tokio::test", "#[test]", "#[apply("];
    let is_test = |line: &&&str| MARKS.iter().any(|mark| line.contains(mark));
    let before = lines[..at].iter().rev().find(is_test);
    let test = before.or_else(|| lines[at..].iter().find(is_test));
    test.is_some_and(|line| line.contains("start_paused = true"))
}

#[test]
fn no_test_sleeps_for_luck() {
    let mut broken = Vec::new();
    for source in ["tests", "crates", "src"].into_iter().flat_map(sources) {
        let has_reason = PAUSES.iter().any(|(file, _)| *file == source.name);
        if has_reason || source.name == "tests/text/tidy.rs" {
            continue;
        }
        let lines: Vec<&str> = test_code(&source).lines().collect();
        let found = lines.iter().enumerate();
        let found = found.filter(|(at, line)| sleeps(line) && !is_in_virtual_time(&lines, *at));
        broken.extend(found.map(|(_, line)| format!("{}: {}", source.name, line.trim())));
    }
    assert_none(broken, "a test that sleeps");
}
