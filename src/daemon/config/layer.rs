//! One layer of settings: what makes it right by itself, and how it lies over another.

use toml::{Table, Value};

use super::error::one_line;
use super::settings::Config;

/// Checks a layer by itself.
///
/// # Errors
/// What is wrong in it, in words.
pub(super) fn check_alone(table: &Table) -> Result<(), String> {
    let config: Result<Config, toml::de::Error> = table.clone().try_into();
    config
        .map(drop)
        .map_err(|e| in_brackets(in_numbers(one_line(e.message()))))
}

/// Says which numbers a type takes, where the message only names the type.
fn in_numbers(message: String) -> String {
    let largest = [
        ("u8", u64::from(u8::MAX)),
        ("u16", u64::from(u16::MAX)),
        ("u32", u64::from(u32::MAX)),
        ("u64", i64::MAX as u64),
        ("usize", i64::MAX as u64),
    ];
    let named = largest.iter().find_map(|(name, largest)| {
        let before = message.strip_suffix(&format!("expected {name}"))?;
        Some(format!(
            "{before}expected a whole number from 0 to {largest}"
        ))
    });
    named.unwrap_or(message)
}

/// Says how a list is written, where the message only says that there is none.
fn in_brackets(message: String) -> String {
    if message.starts_with("invalid type: map, expected a sequence") {
        return "each of them is a section by itself: write its name in two brackets, as in \
                [[share]]"
            .to_owned();
    }
    match message.strip_suffix("expected a sequence") {
        Some(before) => format!("{before}expected a list in brackets, such as [\"a\", \"b\"]"),
        None => message,
    }
}

/// Lays a table over another: tables merge, shares add up (the later one of a folder stands), and
/// everything else is replaced.
pub(super) fn overlay(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (Some(Value::Array(below)), Value::Array(above)) if key == "share" => {
                below.retain(|old| !above.iter().any(|new| old.get("dir") == new.get("dir")));
                below.extend(above);
            }
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}
