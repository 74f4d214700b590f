//! p2pfs(8) has one list of the limits on what comes from outside, each by its name in the source:
//! none that is public in the modules where that is read is missing, and none has another value
//! than the source. What is private there bounds a step of the work, beside which it stands. In the
//! source of the page a line `.\" test: FILE NAME` behind each names a test that tries it at, below
//! and above, or a line `.\" untried: WHY` says why there is none.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::tree::{Source, sources};

/// Where what others send is read, kept, queued or counted.
const OUTSIDE: [&str; 14] = [
    "proto::wire",
    "membership",
    "catalogue",
    "transfer",
    "fetch",
    "legacy",
    "proto::trust",
    "types::offences",
    "node::inbox",
    "node::legacy",
    "node::mesh",
    "node::mailbox",
    "node::machine",
    "node::pulls",
];
/// What the name of a limit has in it.
const LIMITING: [&str; 4] = ["MAX", "PER_S", "AT_ONCE", "BURST"];

const TEST: &str = ".\\\" test: ";
const UNTRIED: &str = ".\\\" untried: ";
/// Those that no test tries: the page says why of each.
const UNTRIED_LIMITS: [&str; 10] = [
    "fetch::plan::URGENT_MAX_BYTES",
    "fetch::plan::peer::WINDOW_MAX_BYTES",
    "fetch::session::answers::SHORT_WAY_MAX_BYTES",
    "node::legacy::CONNECTIONS_MAX",
    "node::legacy::DATAGRAMS_MAX",
    "node::legacy::files::COPIES_MAX",
    "node::legacy::files::KNOWN_MAX",
    "node::legacy::files::WINDOWS_MAX",
    "node::mesh::HEARD_MAX",
    "transfer::client::FETCH_EVENTS_MAX",
];

/// The path of a module, its crate first: `crates/fetch/src/plan/mod.rs` is `fetch::plan`.
fn module_of(source: &Source) -> String {
    let path = source.name.trim_start_matches("crates/");
    let path = path.trim_end_matches(".rs").replacen("/src/", "/", 1);
    let path = path.trim_end_matches("/mod").trim_end_matches("/lib");
    path.replace('/', "::")
}

fn is_outside(module: &str) -> bool {
    OUTSIDE
        .iter()
        .any(|room| module == *room || module.starts_with(&format!("{room}::")))
}

/// The constants of a file: whether everybody may use each, its name, and what it is.
fn constants(text: &str) -> Vec<(bool, String, String)> {
    let mut found = Vec::new();
    for part in text.split('\n').filter(|line| line.contains("const ")) {
        let line = part.trim_start();
        let is_public = line.starts_with("pub const ");
        let declared = line.split_once("const ").map(|(_, rest)| rest);
        let Some((name, rest)) = declared.and_then(|rest| rest.split_once(": ")) else {
            continue;
        };
        let from = text.find(part).unwrap_or_default();
        let whole = text[from..].split_once(';').map_or("", |(whole, _)| whole);
        if let Some((_, value)) = whole.split_once('=').filter(|_| !rest.is_empty()) {
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            found.push((is_public, name.to_owned(), value));
        }
    }
    found
}

/// What a constant comes to: sums of products, or one shift; other constants by their names.
fn value(expression: &str, known: &BTreeMap<String, String>) -> Option<u128> {
    if let Some((left, right)) = expression.split_once(" << ") {
        return Some(value(left, known)? << value(right, known)?);
    }
    let (mut sum, mut product, mut sign, mut by) = (0i128, None::<i128>, 1, '*');
    let mut words = expression.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "as" => drop(words.next()),
            "*" | "/" => by = word.chars().next()?,
            "+" | "-" => {
                sum += sign * product.take()?;
                (sign, by) = (if word == "+" { 1 } else { -1 }, '*');
            }
            atom => {
                let atom = atom_value(atom, known)?;
                product = Some(match (product, by) {
                    (None, _) => atom,
                    (Some(before), '*') => before * atom,
                    (Some(before), _) => before / atom,
                });
            }
        }
    }
    u128::try_from(sum + sign * product?).ok()
}

fn atom_value(atom: &str, known: &BTreeMap<String, String>) -> Option<i128> {
    if atom == "i64::MAX" {
        return Some(i64::MAX.into());
    }
    let digits = atom.replace('_', "");
    if let Ok(number) = digits.trim_end_matches(".0").parse() {
        return Some(number);
    }
    let name = atom.rsplit("::").next()?;
    value(known.get(name)?, known).and_then(|value| value.try_into().ok())
}

/// As the page says it.
fn shown(name: &str, expression: &str, known: &BTreeMap<String, String>) -> Option<String> {
    let duration = expression.strip_prefix("Duration::from_secs(");
    if let Some(seconds) = duration.and_then(|rest| rest.strip_suffix(')')) {
        return Some(format!("{} s", value(seconds, known)?));
    }
    let value = value(expression, known)?;
    let unit = |shift: u32, unit: &str| {
        let whole = value >= 1 << shift && value.is_multiple_of(1 << shift);
        whole.then(|| format!("{} {unit}", value >> shift))
    };
    let bytes = || {
        let scaled = unit(30, "GiB").or_else(|| unit(20, "MiB"));
        scaled.or_else(|| unit(10, "KiB"))
    };
    let scaled = if name.contains("BYTES") {
        bytes()
    } else {
        None
    };
    Some(scaled.unwrap_or_else(|| value.to_string()))
}

/// The limits of the source, by their whole names.
fn limits() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut by_file = Vec::new();
    for source in sources("crates") {
        let product = source.text.split("#[cfg(test)]\nmod tests {").next();
        let constants = constants(product.unwrap_or_default());
        for (_, name, value) in &constants {
            all.entry(name.clone()).or_insert_with(|| value.clone());
        }
        by_file.push((module_of(&source), constants));
    }
    let mut limits = BTreeMap::new();
    for (module, constants) in by_file {
        let mut known = all.clone();
        known.extend(
            constants
                .iter()
                .map(|(_, name, it)| (name.clone(), it.clone())),
        );
        for (is_public, name, expression) in constants {
            let is_limit = LIMITING.iter().any(|word| name.contains(word));
            let is_tested = module.contains("tests") || module.contains("simulation");
            let is_text = expression.starts_with("b\"");
            if is_public && is_limit && is_outside(&module) && !is_tested && !is_text {
                let shown = shown(&name, &expression, &known);
                let whole = format!("{module}::{name}");
                limits.insert(whole, shown.unwrap_or(expression));
            }
        }
    }
    limits
}

fn in_tree(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap_or_default()
}

/// The limits of the page, each with what is said of it: an entry begins with the name in bold.
fn entries() -> BTreeMap<String, String> {
    let page = in_tree("man/p2pfs.8");
    let section = page.split_once(".SH LIMITS\n").expect("a section LIMITS").1;
    let section = section.split("\n.SH ").next().unwrap_or_default();
    let entries = section.split(".TP\n.B ").skip(1);
    let entry = |entry: &str| {
        let (name, text) = entry.split_once('\n')?;
        Some((name.to_owned(), text.to_owned()))
    };
    entries.filter_map(entry).collect()
}

/// The values of the page: the text of an entry begins with the value.
fn listed() -> BTreeMap<String, String> {
    let value = |text: String| {
        let value = text
            .split_once(':')
            .map(|(value, _)| value.trim().to_owned());
        value.unwrap_or(text)
    };
    let entries = entries().into_iter();
    entries.map(|(name, text)| (name, value(text))).collect()
}

/// Why what an entry says of its tests is wrong: each is there, and the tests around the first have
/// the limit's name.
fn trouble(limit: &str, text: &str) -> Option<String> {
    let tests = text.lines().filter_map(|line| line.strip_prefix(TEST));
    let tests: Vec<&str> = tests.collect();
    let untried = text.lines().find_map(|line| line.strip_prefix(UNTRIED));
    if tests.is_empty() {
        let is_said = untried.is_some_and(|why| why.len() > 20);
        return (!is_said).then(|| format!("{limit}: no test"));
    }
    let name = limit.rsplit("::").next().unwrap_or(limit);
    let mut wanted = name;
    for test in tests {
        let (file, function) = test.split_once(' ').unwrap_or_default();
        let source = in_tree(file);
        let begin = source
            .find("#[cfg(test)]")
            .filter(|_| file.starts_with("crates/"));
        let of_tests = &source[begin.unwrap_or(0)..];
        let is_there = of_tests.contains(&format!("fn {function}("));
        if !is_there || !of_tests.contains(wanted) {
            return Some(format!(
                "{limit}: no such test, or it does not name it: {test}"
            ));
        }
        wanted = "";
    }
    None
}

#[test]
fn each_limit_names_a_test_that_tries_it_or_says_why_none_does() {
    let entries = entries();
    let all = entries.iter();
    let broken: Vec<String> = all
        .filter_map(|(limit, text)| trouble(limit, text))
        .collect();
    assert!(broken.is_empty(), "limits:\n  {}", broken.join("\n  "));
    let untried = entries.iter().filter(|(_, text)| text.contains(UNTRIED));
    let untried: Vec<&str> = untried.map(|(limit, _)| limit.as_str()).collect();
    assert_eq!(untried, UNTRIED_LIMITS, "none more, and none that is tried");
}

#[test]
fn each_read_ahead_that_the_kernel_may_have_under_way_can_wait_for_its_bytes() {
    const { assert!(p2pfs_fetch::plan::DEMANDS_MAX > p2pfs_fuse::BACKGROUND_MAX as usize) };
    // and each may be of another file
    const { assert!(p2pfs_fetch::plan::FETCHES_MAX > p2pfs_fuse::BACKGROUND_MAX as usize) };
}

#[test]
fn the_manual_lists_every_limit_on_what_comes_from_outside_as_it_is() {
    let (limits, listed) = (limits(), listed());
    let wanted = |name: &&String| limits.get(*name) != listed.get(*name);
    let broken: Vec<String> = limits
        .keys()
        .chain(listed.keys())
        .filter(wanted)
        .map(|name| {
            let (is, said) = (limits.get(name), listed.get(name));
            format!("{name}: {is:?} in the source, {said:?} in the manual")
        })
        .collect();
    assert!(broken.is_empty(), "limits:\n  {}", broken.join("\n  "));
    assert!(limits.len() > 80, "{}", limits.len());
}
