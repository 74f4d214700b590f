//! p2pfs(8) has one list of every limit on what comes from outside, each by its name in the source:
//! none is missing, and none has another value than the source.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::tidy::{Source, sources};

/// Where what others send is read, kept, queued or counted.
const OUTSIDE: [&str; 12] = [
    "wire",
    "cluster",
    "catalogue",
    "net",
    "legacy",
    "mesh",
    "trust",
    "transfer",
    "offences",
    "node::inbox",
    "node::machine",
    "node::pulls",
];
/// What the name of a limit has in it.
const LIMITING: [&str; 4] = ["MAX", "PER_S", "AT_ONCE", "BURST"];

fn module_of(source: &Source) -> String {
    let path = source
        .name
        .trim_start_matches("src/")
        .trim_end_matches(".rs");
    path.trim_end_matches("/mod").replace('/', "::")
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
    for source in sources("src") {
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

/// The limits of the page: an entry begins with the name in bold, its text with the value.
fn listed() -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/p2pfs.8");
    let page = fs::read_to_string(page).unwrap();
    let section = page.split_once(".SH LIMITS\n").expect("a section LIMITS").1;
    let section = section.split("\n.SH ").next().unwrap_or_default();
    let entries = section.split(".TP\n.B ").skip(1);
    let entry = |entry: &str| {
        let (name, text) = entry.split_once('\n')?;
        let value = text.split_once(':').map_or(text, |(value, _)| value);
        Some((name.to_owned(), value.trim().to_owned()))
    };
    entries.filter_map(entry).collect()
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
