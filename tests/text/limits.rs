//! The entries of p2pfs-limits(7) are generated from the tables `LIMITS` of the crates. Each limit
//! names its test or the reason for none.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use p2pfs_proto::wire::native::tcp::FrameKind;
use p2pfs_transfer::net::peer::PeerLimits;
use p2pfs_types::limit::{Limit, LimitTests, LimitValue};

use crate::generated::{assert_generated, wrapped};

/// Limits without a test. The table gives the reason for each.
const UNTRIED_LIMITS: [&str; 8] = [
    "fetch::plan::URGENT_MAX_BYTES",
    "fetch::plan::link::WINDOW_MAX_BYTES",
    "legacy::discovery_plane::CONNECTIONS_MAX",
    "legacy::discovery_plane::DATAGRAMS_MAX",
    "legacy::discovery_plane::files::COPIES_MAX",
    "legacy::discovery_plane::files::KNOWN_MAX",
    "legacy::discovery_plane::files::WINDOWS_MAX",
    "transfer::client::FETCH_EVENTS_MAX",
];

/// Returns every limit of every crate, by name.
fn limits() -> Vec<Limit> {
    let tables = [
        p2pfs_types::LIMITS,
        p2pfs_proto::LIMITS,
        p2pfs_records::LIMITS,
        p2pfs_membership::LIMITS,
        p2pfs_catalogue::LIMITS,
        p2pfs_fetch::LIMITS,
        p2pfs_transfer::LIMITS,
        p2pfs_legacy::LIMITS,
        p2pfs_node::LIMITS,
    ];
    let mut limits: Vec<Limit> = tables.into_iter().flatten().copied().collect();
    limits.sort_by_key(|limit| limit.name);
    limits
}

/// Returns the entries of the section, as roff.
fn section() -> String {
    let mut roff = String::new();
    for limit in limits() {
        write!(roff, ".TP\n.B {}\n", limit.name).unwrap();
        let entry = match limit.text {
            "" => limit.value.to_string(),
            text => format!("{}: {text}", limit.value),
        };
        roff.push_str(&wrapped(&entry));
        roff.push('\n');
        match limit.tests {
            LimitTests::By(tests) => {
                for test in tests {
                    writeln!(roff, ".\\\" test: {test}").unwrap();
                }
            }
            LimitTests::Untried(why) => writeln!(roff, ".\\\" untried: {why}").unwrap(),
        }
    }
    roff
}

fn in_tree(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_default()
}

/// Returns the fault in the tests of a limit. Each test must exist, and the file of the first one
/// must name the constant.
fn trouble(limit: &Limit) -> Option<String> {
    let LimitTests::By(tests) = limit.tests else {
        return None;
    };
    let name = limit.name.rsplit("::").next().unwrap_or(limit.name);
    for (nth, test) in tests.iter().enumerate() {
        let (file, function) = test.split_once(' ').unwrap_or_default();
        let source = in_tree(file);
        let begin = source.find("#[cfg(test)]");
        let begin = begin.filter(|_| file.starts_with("crates/"));
        let of_tests = &source[begin.unwrap_or(0)..];
        let is_there = of_tests.contains(&format!("fn {function}("));
        if !is_there || (nth == 0 && !of_tests.contains(name)) {
            let limit = limit.name;
            return Some(format!(
                "{limit}: no such test, or it does not name it: {test}"
            ));
        }
    }
    tests.is_empty().then(|| format!("{}: no test", limit.name))
}

#[test]
fn manual_lists_the_limits_of_the_tables() {
    let page = "man/p2pfs-limits.7";
    let text = in_tree(page);
    let start = text.find(".SH LIMITS\n").expect("a section LIMITS");
    let start = start + text[start..].find(".TP\n").expect("entries");
    let end = start + text[start..].find("\n.SH ").expect("a section behind it") + 1;
    let whole = format!("{}{}{}", &text[..start], section(), &text[end..]);
    assert_generated(page, &whole);
}

/// Returns the number after `before` in a text.
fn figure(text: &str, before: &str) -> u64 {
    let (_, rest) = text
        .split_once(before)
        .unwrap_or_else(|| panic!("{before}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn manual_has_the_memory_that_unproven_connections_can_take() {
    let manual = in_tree("man/p2pfs-limits.7").replace('\n', " ");
    let page = &*manual;
    let handshake = limits()
        .into_iter()
        .find(|limit| limit.name == "records::HANDSHAKE_MAX_BYTES");
    let Some(LimitValue::Bytes(handshake_bytes)) = handshake.map(|limit| limit.value) else {
        panic!("there is no limit of a handshake");
    };
    // The buffer grows by doubling, from a power of two.
    let buffer_bytes = handshake_bytes.next_power_of_two();
    assert_eq!(figure(page, "in a buffer of up to ") << 10, buffer_bytes);
    let greeting_bytes = FrameKind::Prove.limit_bytes() as u64;
    assert_eq!(figure(page, "tcp::frame, "), greeting_bytes);
    let connection_bytes = figure(page, "such a connection takes less than ") << 10;
    assert!(buffer_bytes + greeting_bytes < connection_bytes);
    let count = PeerLimits::default().connections.unproven as u64;
    assert_eq!(figure(page, "and the "), count);
    let all_bytes = figure(page, "of .I unproven take less than ") << 20;
    assert!(count * connection_bytes < all_bytes);
    // The figure is rounded up to its unit and no further.
    assert!(count * connection_bytes > all_bytes - (1 << 20));
}

#[test]
fn each_limit_names_its_test_or_a_reason_for_none() {
    let limits = limits();
    let broken: Vec<String> = limits.iter().filter_map(trouble).collect();
    assert!(broken.is_empty(), "limits:\n  {}", broken.join("\n  "));
    let untried = limits
        .iter()
        .filter(|it| matches!(it.tests, LimitTests::Untried(_)));
    let untried: Vec<&str> = untried.map(|limit| limit.name).collect();
    assert_eq!(untried, UNTRIED_LIMITS, "none more, and none that is tried");
}

#[test]
fn all_concurrent_kernel_read_aheads_can_wait_for_their_bytes() {
    const { assert!(p2pfs_fetch::plan::DEMANDS_MAX > p2pfs_fuse::BACKGROUND_MAX as usize) };
    // Each read-ahead may be of another file.
    const { assert!(p2pfs_fetch::plan::FETCHES_MAX > p2pfs_fuse::BACKGROUND_MAX as usize) };
}
