//! Ages in words, for sentences that a person reads.

use std::time::Duration;

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
const DAY_S: u64 = 24 * HOUR_S;
/// Number of minutes, hours or days from which an age has that unit, so that it keeps two digits.
const UNIT_MIN: u64 = 2;

/// Returns an age in its largest suitable unit, rounded down: `90 s`, `12 min`, `3 h`, `5 days`.
pub fn age_text(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [(DAY_S, "days"), (HOUR_S, "h"), (MINUTE_S, "min")];
    let unit = units
        .iter()
        .find(|(length, _)| seconds >= UNIT_MIN * length);
    unit.map_or_else(
        || format!("{seconds} s"),
        |(length, name)| format!("{} {name}", seconds / length),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_in_its_largest_unit_from_two_on() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7199, "119 min"),
            (7200, "2 h"),
            (2 * DAY_S - 1, "47 h"),
            (2 * DAY_S, "2 days"),
        ] {
            assert_eq!(age_text(Duration::from_secs(seconds)), text);
        }
    }
}
