//! One layer of settings: its own checks, and its merge with another layer.

use toml::{Table, Value};

use super::error::one_line;
use super::setting::{SETTINGS, Setting};
use super::settings::Config;

/// Checks a layer by itself.
///
/// # Errors
/// A description of the error.
pub(super) fn check_alone(table: &Table) -> Result<(), String> {
    for (key, value) in table {
        check_section(key, value)?;
        check_no_date(value)?;
    }
    let config: Result<Config, toml::de::Error> = table.clone().try_into();
    config
        .map(drop)
        .map_err(|e| in_brackets(in_numbers(one_line(e.message()))))
}

/// Replaces the name of an integer type by the range of accepted numbers.
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

/// Checks that a section is written as a table. serde would also accept a list of its values in the
/// order of its keys.
fn check_section(key: &str, value: &Value) -> Result<(), String> {
    let settings = SETTINGS.iter().filter(|setting| setting.section() == key);
    let keys = settings.map(Setting::name);
    let keys: Vec<&str> = keys.collect();
    if key.is_empty() || keys.is_empty() {
        return Ok(());
    }
    let keys = keys.join(", ");
    let is_right = match (key, value) {
        ("share", Value::Array(items)) => items.iter().all(Value::is_table),
        (_, value) => key != "share" && value.is_table(),
    };
    match (is_right, key) {
        (true, _) => Ok(()),
        (false, "share") => Err(format!(
            "each of them is a section by itself: write its name in two brackets, as in [[share]], \
             and below it its keys: {keys}"
        )),
        (false, section) => Err(format!(
            "this is a section: write [{section}], and below it its keys: {keys}"
        )),
    }
}

/// Rejects dates. No setting is a date, and some text settings would accept one as text.
fn check_no_date(value: &Value) -> Result<(), String> {
    match value {
        Value::Datetime(date) => Err(format!(
            "{date} without quotes is a date: put a text in quotes, as in \"{date}\""
        )),
        Value::Array(items) => items.iter().try_for_each(check_no_date),
        Value::Table(table) => table.values().try_for_each(check_no_date),
        _ => Ok(()),
    }
}

/// Adds an example of a list if the message only says that a sequence is expected.
fn in_brackets(message: String) -> String {
    match message.strip_suffix("expected a sequence") {
        Some(before) => format!("{before}expected a list in brackets, such as [\"a\", \"b\"]"),
        None => message,
    }
}

/// Merges the table `above` over `below`. Tables merge recursively. Shares are appended, and
/// replace earlier shares with the same `dir`. All other values are replaced.
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
