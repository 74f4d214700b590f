//! How many bytes a second may pass, as it is written down: `10MiB/s`, or `none`.

use std::fmt;
use std::str::FromStr;

use super::program_budget::RATE_MIN_BYTES;
use super::units::{self, UnitError, written_as_text};

/// As it is written where nothing is limited.
const NO_LIMIT: &str = "none";

/// A limit in bytes a second; none where nothing is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimit(pub Option<u64>);

/// A text that is no limit. Whoever wrote it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateLimitError {
    /// It is not said that it is of a second.
    #[error("{text:?} is no rate: write a size and /s, such as \"10MiB/s\", or \"none\"")]
    NoRate {
        /// What was given.
        text: String,
    },
    /// The size in it is none.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// Less than is possible.
    #[error(
        "{text:?} is too little: the least is {}/s; to have nothing given, share nothing",
        units::write_size(RATE_MIN_BYTES)
    )]
    TooLittle {
        /// What was given.
        text: String,
    },
}

impl FromStr for RateLimit {
    type Err = RateLimitError;

    fn from_str(text: &str) -> Result<Self, RateLimitError> {
        let text = text.trim();
        if text == NO_LIMIT {
            return Ok(Self(None));
        }
        let owned = || text.to_owned();
        let size = text.strip_suffix("/s");
        let size = size.ok_or_else(|| RateLimitError::NoRate { text: owned() })?;
        match units::parse_size(size)? {
            less if less < RATE_MIN_BYTES => Err(RateLimitError::TooLittle { text: owned() }),
            bytes_per_s => Ok(Self(Some(bytes_per_s))),
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str(NO_LIMIT),
            Some(bytes_per_s) => write!(f, "{}/s", units::write_size(bytes_per_s)),
        }
    }
}

written_as_text!(RateLimit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_size_a_second_or_none_and_is_written_as_it_was_read() {
        for text in ["none", "10MiB/s", "64KiB/s", "1GB/s"] {
            assert_eq!(text.parse::<RateLimit>().unwrap().to_string(), text);
        }
        assert_eq!("1.5M/s".parse(), Ok(RateLimit(Some(3 << 19))));
        let say = |text: &str| text.parse::<RateLimit>().unwrap_err().to_string();
        assert!(say("10MiB").contains("such as \"10MiB/s\", or \"none\""));
        assert!(say("fast/s").contains("is no size") && say("0B/s").contains("the least is"));
    }
}
