//! The description of one limit on input from outside.
//!
//! Each crate that reads such input lists its limits in a table `LIMITS`. p2pfs-limits(7) is
//! generated from these tables.

use std::fmt;
use std::time::Duration;

/// One limit: a constant of the source, its meaning, and how it is tested.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The path of the constant, its crate first: `fetch::plan::DEMANDS_MAX`.
    pub name: &'static str,
    /// The value of the constant, with its unit.
    pub value: LimitValue,
    /// The meaning of the limit and what happens at it, for p2pfs(8).
    pub text: &'static str,
    /// The tests that try values at, below and above the limit.
    pub tests: LimitTests,
}

/// A value with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitValue {
    /// A number of things, or a rate of them.
    Count(u64),
    /// A number of bytes.
    Bytes(u64),
    /// A time in whole seconds.
    Time(Duration),
}

/// The tests of a limit.
#[derive(Clone, Copy, Debug)]
pub enum LimitTests {
    /// Tests, each as `FILE FUNCTION`. The file of the first one contains the name of the constant.
    By(&'static [&'static str]),
    /// The reason why no test tries the limit.
    Untried(&'static str),
}

impl fmt::Display for LimitValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Time(time) => write!(f, "{} s", time.as_secs()),
            Self::Bytes(bytes) => {
                let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
                let whole = |shift: u32| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift);
                match units.iter().find(|(shift, _)| whole(*shift)) {
                    Some((shift, unit)) => write!(f, "{} {unit}", bytes >> shift),
                    None => write!(f, "{bytes}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_in_the_largest_whole_unit() {
        assert_eq!(LimitValue::Bytes(3 << 20).to_string(), "3 MiB");
        assert_eq!(LimitValue::Bytes(1200 << 10).to_string(), "1200 KiB");
        assert_eq!(LimitValue::Bytes(1023).to_string(), "1023");
        assert_eq!(LimitValue::Count(4096).to_string(), "4096");
        assert_eq!(
            LimitValue::Time(Duration::from_secs(60)).to_string(),
            "60 s"
        );
    }
}
