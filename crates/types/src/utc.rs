//! Points in time in UTC, for sentences that a person reads.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Returns a time as `2026-11-30 08:05:00 UTC`. Returns a time before 1970 as its first second, and
/// a time after the year 9999 as the last second of the calendar.
pub fn utc_text(time: SystemTime) -> String {
    let time = Timestamp::try_from(time.max(UNIX_EPOCH)).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_with_their_date_in_utc() {
        // Compared with date -u.
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_868_799, "2000-02-29 23:59:59 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59:59 UTC"),
            (1_796_000_000, "2026-11-30 00:53:20 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(utc_text(time), text, "{seconds}");
        }
    }

    #[test]
    fn times_outside_of_the_calendar_are_its_first_or_last_second() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(utc_text(before), "1970-01-01 00:00:00 UTC");
        let after = UNIX_EPOCH + Duration::from_secs(1 << 50);
        assert_eq!(utc_text(after), "9999-12-30 22:00:00 UTC");
    }
}
