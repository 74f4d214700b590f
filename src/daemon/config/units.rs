//! Durations and sizes with units in human form: `500ms`, `10s`, `20GiB`.
//!
//! A number without a unit is refused, not guessed.

use std::fmt;
use std::time::Duration;

/// Units of durations in milliseconds, longest unit first.
const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
/// Units of sizes in bytes, largest unit first.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];
/// Further units that are accepted: one letter stands for a power of 1024, as in systemd and
/// coreutils. `KB` is a thousand.
const SHORT_SIZE_UNITS: [(&str, u64); 5] = [
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("KB", 1_000),
];
/// Maximum duration of a setting. No user sees the end of a wait of a year.
pub const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Maximum digits of a fraction that count. Further ones stand for less than a thousandth of a byte
/// or millisecond.
const FRACTION_MAX_DIGITS: usize = 18;

/// Why a text is invalid. The error is the user's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Wrong(pub(super) String);

fn zero(text: &str) -> Wrong {
    Wrong(format!("{text:?} is zero, which is impossible here"))
}

/// Parses a duration: a number and one of `ms`, `s`, `m`, `h`, `d`.
///
/// # Errors
/// [`Wrong`] says what is accepted.
pub fn parse_duration(text: &str) -> Result<Duration, Wrong> {
    parse(text, "duration", "\"10s\"", &DURATION_UNITS, &[]).map(Duration::from_millis)
}

/// Parses a size in bytes: a number and one of `B`, `kB`, `MB`, `GB`, `TB` (powers of 1000) or
/// `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024). `K`, `M`, `G`, `T` are short for the latter; `KB`
/// is `kB`.
///
/// # Errors
/// [`Wrong`] says what is accepted.
pub fn parse_size(text: &str) -> Result<u64, Wrong> {
    parse(text, "size", "\"10GiB\"", &SIZE_UNITS, &SHORT_SIZE_UNITS)
}

/// Parses a size in bytes that must not be zero.
///
/// # Errors
/// [`Wrong`] says what is accepted.
pub fn parse_positive_size(text: &str) -> Result<u64, Wrong> {
    match parse_size(text)? {
        0 => Err(zero(text)),
        bytes => Ok(bytes),
    }
}

/// Parses a duration that must not be zero.
///
/// # Errors
/// [`Wrong`] says what is accepted.
pub fn parse_positive_duration(text: &str) -> Result<Duration, Wrong> {
    match parse_duration(text)? {
        Duration::ZERO => Err(zero(text)),
        duration => Ok(duration),
    }
}

/// Formats a duration, rounded down to milliseconds, in the largest exact unit, as
/// [`parse_duration`] accepts it.
pub fn write_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    write(ms, &DURATION_UNITS, "0s")
}

/// Formats a size in an exact unit with the shortest text, as [`parse_size`] accepts it.
pub fn write_size(bytes: u64) -> String {
    write(bytes, &SIZE_UNITS, "0B")
}

/// Formats a count with its noun: `one` if the count is 1, `many` otherwise.
pub fn write_count(count: u64, one: &str, many: &str) -> String {
    let word = if count == 1 { one } else { many };
    format!("{count} {word}")
}

fn parse(
    text: &str,
    what: &'static str,
    example: &'static str,
    units: &[(&'static str, u64)],
    short: &[(&'static str, u64)],
) -> Result<u64, Wrong> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(Wrong(format!("{text:?} is negative")));
    }
    let number_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_end);
    let unit = unit.trim_start();
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let names: Vec<_> = units.iter().rev().map(|(name, _)| *name).collect();
    let is_number = !whole.is_empty() && !fraction.is_empty() && !fraction.contains('.');
    if !is_number || unit.starts_with(',') {
        let how = format!("write a number and a unit, such as {example}");
        return Err(Wrong(format!("{text:?} is not a {what}: {how}")));
    }
    if unit.is_empty() {
        let units = names.join(&format!(", {text}"));
        return Err(Wrong(format!("{text:?} has no unit: write {text}{units}")));
    }
    let mut known = units.iter().chain(short);
    let Some((_, factor)) = known.find(|(name, _)| *name == unit) else {
        let units = names.join(", ");
        let what = format!("{unit:?} in {text:?} is not a unit");
        return Err(Wrong(format!("{what}: the units are {units}")));
    };
    amount(whole, fraction, *factor).ok_or_else(|| Wrong(format!("{text:?} is too large")))
}

/// Multiplies the number by the factor and rounds down; returns `None` on overflow.
fn amount(whole: &str, fraction: &str, factor: u64) -> Option<u64> {
    let fraction = &fraction[..fraction.len().min(FRACTION_MAX_DIGITS)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = fraction.parse::<u128>().ok()? * u128::from(factor) / scale;
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    whole.checked_add(u64::try_from(parts).ok()?)
}

fn write(amount: u64, units: &[(&'static str, u64)], zero: &str) -> String {
    if amount == 0 {
        return zero.to_owned();
    }
    units
        .iter()
        .filter(|(_, factor)| amount.is_multiple_of(*factor))
        .map(|(name, factor)| format!("{}{name}", amount / factor))
        .min_by_key(String::len)
        .unwrap_or_default()
}

/// A visitor that passes text to one of the parsers.
struct Text<T> {
    parser: fn(&str) -> Result<T, Wrong>,
    expected: &'static str,
}

impl<T> serde::de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.parser)(text).map_err(E::custom)
    }
}

/// Generates one module for a parser, for serde's `with`.
macro_rules! serde_with {
    ($module:ident, $type:ty, $parser:expr, $writer:expr, $expected:literal) => {
        #[doc = concat!("For serde's `with`: ", $expected, ".")]
        pub mod $module {
            use serde::{Deserializer, Serializer};

            use super::*;

            /// Serializes the value with its unit.
            ///
            /// # Errors
            /// Only the serializer's own.
            pub fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&$writer(*value))
            }

            /// Deserializes the value with its unit.
            ///
            /// # Errors
            /// The error of the parser.
            pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                from.deserialize_str(Text {
                    parser: $parser,
                    expected: $expected,
                })
            }
        }
    };
}

/// Parses a duration with `parser` and limits it to [`DURATION_MAX`].
fn bounded(text: &str, parser: fn(&str) -> Result<Duration, Wrong>) -> Result<Duration, Wrong> {
    match parser(text)? {
        duration if duration > DURATION_MAX => Err(Wrong(format!(
            "{text:?} is too long: at most {}",
            write_duration(DURATION_MAX)
        ))),
        duration => Ok(duration),
    }
}

serde_with!(
    duration,
    Duration,
    |text| bounded(text, parse_duration),
    write_duration,
    "a duration with its unit, such as \"500ms\" or \"10s\""
);
serde_with!(
    positive_duration,
    Duration,
    |text| bounded(text, parse_positive_duration),
    write_duration,
    "a duration with its unit, such as \"10s\" or \"2m\""
);
serde_with!(
    size,
    u64,
    parse_size,
    write_size,
    "a size with its unit, such as \"512KiB\" or \"10MB\""
);
serde_with!(
    positive_size,
    u64,
    parse_positive_size,
    write_size,
    "a size with its unit, such as \"10GiB\""
);

serde_with!(
    optional_size,
    Option<u64>,
    |text| parse_positive_size(text).map(Some),
    |size: Option<u64>| size.map(write_size).unwrap_or_default(),
    "a size with its unit, such as \"10GiB\""
);

/// Implements serde through `FromStr` and `Display`, for a setting that is a text in the file.
macro_rules! written_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(super) use written_as_text;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("30d", 2_592_000_000),
            ("0s", 0),
            (" 10 s ", 10_000),
            ("1.5s", 1_500),
            ("0.25h", 900_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_are_read_in_powers_of_1000_and_of_1024() {
        for (text, bytes) in [
            ("20GiB", 20 << 30),
            ("10MB", 10_000_000),
            ("512KiB", 512 << 10),
            ("3kB", 3_000),
            ("1TiB", 1 << 40),
            ("7B", 7),
            ("0B", 0),
            ("10G", 10 << 30),
            ("64K", 64 << 10),
            ("1.5GiB", 3 << 29),
            ("0.5 T", 1 << 39),
            ("2.5kB", 2_500),
            ("1.9999999999999999999999B", 1),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn each_invalid_form_has_its_own_error() {
        let say = |text| parse_duration(text).unwrap_err().to_string();
        assert_eq!(
            say("10"),
            r#""10" has no unit: write 10ms, 10s, 10m, 10h, 10d"#
        );
        assert_eq!(say("-3s"), r#""-3s" is negative"#);
        assert!(say("").contains("is not a duration"));
        assert!(say("soon").contains(r#"such as "10s""#));
        for text in ["1.s", ".5s", "1.2.3s", "1,5s"] {
            assert!(say(text).contains("is not a duration"), "{text}");
        }
        let unknown = say("3weeks");
        assert_eq!(
            unknown,
            r#""weeks" in "3weeks" is not a unit: the units are ms, s, m, h, d"#
        );
        assert_eq!(
            say("99999999999999999999s"),
            r#""99999999999999999999s" is too large"#
        );
        assert_eq!(
            say("18446744073709551615d"),
            r#""18446744073709551615d" is too large"#
        );
        assert!(
            parse_size("10Gi")
                .unwrap_err()
                .to_string()
                .contains("B, kB, KiB, MB, MiB")
        );
        assert_eq!(
            parse_size("18446744073709551615KiB")
                .unwrap_err()
                .to_string(),
            r#""18446744073709551615KiB" is too large"#
        );
    }

    #[test]
    fn zero_is_refused_only_where_it_is_impossible() {
        assert_eq!(parse_size("0B"), Ok(0));
        let zero = |text| Wrong(format!("{text:?} is zero, which is impossible here"));
        assert_eq!(parse_positive_size("0GiB"), Err(zero("0GiB")));
        assert_eq!(parse_positive_duration("0s"), Err(zero("0s")));
    }

    #[test]
    fn amounts_are_written_readably() {
        assert_eq!(write_size(10 << 30), "10GiB");
        assert_eq!(write_size(10_000_000), "10MB");
        assert_eq!(write_size(1_000_001), "1000001B");
        assert_eq!(write_duration(Duration::from_secs(10)), "10s");
        assert_eq!(write_duration(Duration::from_secs(3600)), "1h");
        assert_eq!(write_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(write_duration(Duration::ZERO), "0s");
    }

    proptest! {
        #[test]
        fn a_written_value_round_trips(amount: u64) {
            prop_assert_eq!(parse_size(&write_size(amount)), Ok(amount));
            let duration = Duration::from_millis(amount);
            prop_assert_eq!(parse_duration(&write_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text: String) {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
