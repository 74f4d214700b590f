//! A rate limit in settings: `10MiB/s`, or `none`.

use std::fmt;
use std::str::FromStr;

use super::units::{self, Wrong, written_as_text};

/// Text for an unlimited rate.
const NO_LIMIT: &str = "none";
/// Smallest rate in bytes per second. At this rate a large read of the kernel (1 MiB) takes 16 s,
/// and a read may wait 20 s for its budget.
pub const RATE_MIN_BYTES: u64 = 64 << 10;

/// Why a text is not a rate. The error is the user's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The `/s` is missing.
    #[error("{text:?} is not a rate: write a size and /s, such as \"10MiB/s\"")]
    NoRate {
        /// The text.
        text: String,
    },
    /// The size is invalid.
    #[error(transparent)]
    Unit(#[from] Wrong),
    /// The rate is below the minimum.
    #[error("{text:?} is too little: the least is {}", written(RATE_MIN_BYTES))]
    TooLittle {
        /// The text.
        text: String,
    },
}

/// Returns the bytes per second of a text such as `10MiB/s`.
///
/// # Errors
/// [`RateError`]
pub(super) fn parse(text: &str) -> Result<u64, RateError> {
    let text = text.trim();
    let owned = || text.to_owned();
    let size = text.strip_suffix("/s");
    let size = size.ok_or_else(|| RateError::NoRate { text: owned() })?;
    match units::parse_size(size)? {
        less if less < RATE_MIN_BYTES => Err(RateError::TooLittle { text: owned() }),
        bytes_per_s => Ok(bytes_per_s),
    }
}

/// Returns the text that [`parse`] reads.
pub(super) fn written(bytes_per_s: u64) -> String {
    format!("{}/s", units::write_size(bytes_per_s))
}

/// A limit in bytes per second; `None` means unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimit(pub Option<u64>);

/// Why a text is not a limit. The error is the user's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rate}{}", more(.rate))]
pub struct RateLimitError {
    #[from]
    rate: RateError,
}

/// Returns the alternative to a rate, for the error text.
fn more(rate: &RateError) -> &'static str {
    match rate {
        RateError::NoRate { .. } => ", or \"none\"",
        RateError::TooLittle { .. } => "; to have nothing given, share nothing",
        RateError::Unit(_) => "",
    }
}

impl FromStr for RateLimit {
    type Err = RateLimitError;

    fn from_str(text: &str) -> Result<Self, RateLimitError> {
        match text.trim() {
            NO_LIMIT => Ok(Self(None)),
            rate => Ok(Self(Some(parse(rate)?))),
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str(NO_LIMIT),
            Some(bytes_per_s) => f.write_str(&written(bytes_per_s)),
        }
    }
}

written_as_text!(RateLimit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_size_a_second_or_none_and_round_trips() {
        for text in ["none", "10MiB/s", "64KiB/s", "1GB/s"] {
            assert_eq!(text.parse::<RateLimit>().unwrap().to_string(), text);
        }
        assert_eq!("1.5M/s".parse(), Ok(RateLimit(Some(3 << 19))));
        let say = |text: &str| text.parse::<RateLimit>().unwrap_err().to_string();
        assert!(say("10MiB").contains("such as \"10MiB/s\", or \"none\""));
        assert!(say("fast/s").contains("is not a size") && say("0B/s").contains("the least is"));
    }
}
