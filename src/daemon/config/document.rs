//! One file of settings. Every value is checked by itself, so that all wrong values of the file are
//! reported at once, each with its position.

use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::alike::suggestion;
use super::error::{ConfigError, is_leading_zero, line_and_column, one_line};
use super::layer::check_alone;

/// Maximum errors reported for a file that is not TOML, because a file in another format is wrong
/// in every line. If only values are wrong, all errors are reported.
const PARSE_ERRORS_MAX: usize = 20;
/// Placeholder directory of a share, for checking the share's other keys.
const ANY_DIR: &str = "/";

/// Reads a file. Returns the valid values, and the errors of the others.
pub(super) fn read(path: &Path, text: &str) -> (Table, Vec<ConfigError>) {
    let mut document = Document {
        path,
        text,
        errors: Vec::new(),
    };
    let mut most = usize::MAX;
    let (parsed, wrong) = DeTable::parse_recoverable(text);
    let table: Result<Table, _> = toml::from_str(text);
    let table = match (wrong.is_empty(), table) {
        (true, Ok(table)) => document.check(parsed.get_ref(), table),
        (_, table) => {
            let first = table.err();
            let all = wrong
                .iter()
                .chain(first.iter().filter(|_| wrong.is_empty()));
            all.for_each(|error| document.is_no_toml(parsed.get_ref(), error));
            // If numbers with a leading zero are the only errors, the parser has read the rest of
            // the document correctly.
            let zeros = wrong.iter().filter(|it| is_leading_zero(it.message()));
            if !wrong.is_empty() && zeros.count() == wrong.len() {
                document.check(parsed.get_ref(), recovered(parsed.get_ref()));
            } else {
                most = PARSE_ERRORS_MAX;
            }
            Table::new()
        }
    };
    (table, document.told(most))
}

/// Returns the values that can be checked in a document with a wrong value.
fn recovered(table: &DeTable<'_>) -> Table {
    let values = table.iter().filter_map(|(key, value)| {
        let value = recovered_value(value.get_ref())?;
        Some((key.get_ref().to_string(), value))
    });
    values.collect()
}

fn recovered_value(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()?)
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().ok()?),
        DeValue::Boolean(is_so) => Value::Boolean(*is_so),
        DeValue::Datetime(time) => Value::Datetime(*time),
        DeValue::Array(items) => {
            let items: Option<Vec<Value>> = items
                .iter()
                .map(|it| recovered_value(it.get_ref()))
                .collect();
            Value::Array(items?)
        }
        DeValue::Table(table) => Value::Table(recovered(table)),
    })
}

struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    errors: Vec<ConfigError>,
}

impl Document<'_> {
    /// Returns the first `most` errors in the order of their lines. If there are more, a last error
    /// says how many.
    fn told(self, most: usize) -> Vec<ConfigError> {
        let mut errors = self.errors;
        errors.sort_by_key(ConfigError::line);
        let more = errors.len().saturating_sub(most);
        if more > 0 {
            errors.truncate(most);
            let path = self.path.to_path_buf();
            errors.push(ConfigError::More { path, more });
        }
        errors
    }

    /// Records a parser error. Further errors on the same line are ignored, because they follow
    /// from the first.
    fn is_no_toml(&mut self, parsed: &DeTable<'_>, error: &toml::de::Error) {
        let error = ConfigError::in_file(self.path, self.text, parsed, error);
        if !self.errors.iter().any(|known| known.line() == error.line()) {
            self.errors.push(error);
        }
    }

    /// Checks all values and returns the valid ones.
    fn check(&mut self, parsed: &DeTable<'_>, table: Table) -> Table {
        let mut right = Table::new();
        for (key, value) in table {
            let Some((name, place)) = parsed.get_key_value(key.as_str()) else {
                continue;
            };
            let kept = match (place.get_ref(), value) {
                (DeValue::Table(places), Value::Table(section)) => {
                    self.section(name, place, places, section)
                }
                (DeValue::Array(places), Value::Array(items)) if key == "share" => {
                    self.shares(places, items)
                }
                (_, value) => self
                    .value(&[&key], name, place, &value, |value| one(&key, value))
                    .then_some(value),
            };
            right.extend(kept.map(|kept| (key, kept)));
        }
        right
    }

    fn section(
        &mut self,
        name: &Spanned<impl AsRef<str>>,
        place: &Spanned<DeValue<'_>>,
        places: &DeTable<'_>,
        section: Table,
    ) -> Option<Value> {
        let key = name.get_ref().as_ref().to_owned();
        let empty = Value::Table(Table::new());
        if !self.is_right(&[&key], name, place, one(&key, empty)) {
            return None;
        }
        let mut right = Table::new();
        for (inner, value) in section {
            let Some((name, place)) = places.get_key_value(inner.as_str()) else {
                continue;
            };
            let alone = |value| one(&key, Value::Table(one(&inner, value)));
            if self.value(&[&key, &inner], name, place, &value, alone) {
                right.insert(inner, value);
            }
        }
        Some(Value::Table(right))
    }

    fn shares(&mut self, places: &[Spanned<DeValue<'_>>], items: Vec<Value>) -> Option<Value> {
        let mut right = Vec::new();
        for (place, item) in places.iter().zip(items) {
            let share = |value: Value| one("share", Value::Array(vec![value]));
            let (Some(inner), Some(table)) = (place.get_ref().as_table(), item.as_table()) else {
                self.is_right(&["share"], place, place, share(item));
                continue;
            };
            let before = self.errors.len();
            for (key, value) in table {
                let Some((name, place)) = inner.get_key_value(key.as_str()) else {
                    continue;
                };
                let alone = |value| {
                    let mut alone = one("dir", Value::from(ANY_DIR));
                    alone.insert(key.clone(), value);
                    share(Value::Table(alone))
                };
                self.value(&["share", key], name, place, value, alone);
            }
            if !table.contains_key("dir") {
                let nothing = share(Value::Table(Table::new()));
                self.is_right(&["share"], place, place, nothing);
            }
            if self.errors.len() == before {
                right.push(item);
            }
        }
        Some(Value::Array(right))
    }

    /// Checks a value, and each item of a list by itself.
    fn value<N>(
        &mut self,
        keys: &[&str],
        name: &Spanned<N>,
        place: &Spanned<DeValue<'_>>,
        value: &Value,
        alone: impl Fn(Value) -> Table,
    ) -> bool {
        let before = self.errors.len();
        let (places, items) = (place.get_ref().as_array(), value.as_array());
        let is_list = check_alone(&alone(Value::Array(Vec::new()))).is_ok();
        if let (Some(places), Some(items), true) = (places, items, is_list) {
            for (place, item) in places.iter().zip(items) {
                self.is_right(keys, name, place, alone(Value::Array(vec![item.clone()])));
            }
        }
        // Valid items may still be too many, or duplicates.
        self.errors.len() == before && self.is_right(keys, name, place, alone(value.clone()))
    }

    /// Checks whether the configuration `alone`, which has only the value to be checked, is valid.
    /// If not, records the error, unless its line is not TOML anyway. The error points to `name` if
    /// that is an unknown key, and to `value` otherwise.
    fn is_right<N, V>(
        &mut self,
        keys: &[&str],
        name: &Spanned<N>,
        value: &Spanned<V>,
        alone: Table,
    ) -> bool {
        let Err(message) = check_alone(&alone) else {
            return true;
        };
        let (span, meant) = if message.starts_with("unknown field") {
            (name.span(), suggestion(keys))
        } else {
            (value.span(), String::new())
        };
        let (line, column) = line_and_column(self.text, span.start);
        if self.errors.iter().any(|known| known.is_no_toml_at(line)) {
            return false;
        }
        self.errors.push(ConfigError::File {
            path: self.path.to_path_buf(),
            line,
            column,
            key: keys.join("."),
            message: one_line(&message) + &meant,
            is_toml: true,
        });
        false
    }
}

fn one(key: &str, value: Value) -> Table {
    Table::from_iter([(key.to_owned(), value)])
}
