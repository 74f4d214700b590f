//! Text for terminals: safe names, and amounts for people.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::daemon::control::Named;
pub(super) use p2pfs_types::path::{escape, is_trick};

/// Returns whether the user wants colours (<https://no-color.org>).
pub(super) fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Escapes a path of the shared folder for a terminal. The folder itself, whose path is empty, is
/// shown as `/`.
pub(super) fn escape_path(path: &Named) -> String {
    match path.as_bytes() {
        b"" => "/".to_owned(),
        path => escape(path),
    }
}

/// Escapes text from other nodes and programs as [`escape`] does, except that a backslash stays
/// single.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|letter| {
            let escaped = is_trick(letter).then(|| letter.escape_default());
            let plain = escaped.is_none().then_some(letter);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

/// Formats an amount of bytes for people: `1.5 GiB`.
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if amount < 1023.95 {
            break;
        }
        amount /= 1024.0;
        unit = next;
    }
    format!("{amount:.1} {unit}")
}

/// Returns the name of a local user, or the number of a user without a name.
pub(super) fn user_name(uid: u32) -> String {
    let user = uzers::get_user_by_uid(uid);
    user.map_or_else(
        || uid.to_string(),
        |user| printable(&user.name().to_string_lossy()),
    )
}

/// Formats a time in the local time zone.
pub(super) fn local_time(time: Timestamp) -> String {
    let zoned = time.to_zoned(TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Formats the time of day in the local time zone.
pub(super) fn time_of_day(time: Timestamp) -> String {
    let zoned = time.to_zoned(TimeZone::system());
    zoned.strftime("%H:%M:%S").to_string()
}

/// Returns the parser of an on/off option, whose values shells complete.
pub(super) fn on_or_off() -> impl TypedValueParser<Value = bool> {
    PossibleValuesParser::new(["on", "off"]).map(|text| text == "on")
}

/// Returns a part of a whole in per cent; a part of nothing is 100%.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "100%".to_owned(),
        // Rounded down, so that only a complete part is 100%.
        _ => format!("{}%", u128::from(part.min(whole)) * 100 / u128::from(whole)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_control_a_terminal() {
        assert_eq!(printable("C:\\x\x07"), "C:\\x\\u{7}");
    }

    #[test]
    fn amounts_are_written_in_readable_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn nothing_is_called_whole_before_it_is() {
        assert_eq!(percent(999, 1000), "99%");
        assert_eq!(percent(1000, 1000), "100%");
        assert_eq!(percent(0, 0), "100%");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99%");
    }
}
