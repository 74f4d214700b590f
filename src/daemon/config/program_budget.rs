//! The fetch budget of a program in settings: `rsync=10MiB/s`.

use std::fmt;
use std::str::FromStr;

use super::rate_limit;
use super::units::{Wrong, written_as_text};

/// A program, named by its process or its unit, and its budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramBudget {
    /// The name of the process or of the unit.
    pub program: String,
    /// Bytes per second.
    pub bytes_per_s: u64,
}

impl FromStr for ProgramBudget {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let how = "write PROGRAM=RATE, such as \"rsync=10MiB/s\"";
        let no_budget = || Wrong(format!("{text:?} is not a budget: {how}"));
        let (program, rate) = text.rsplit_once('=').ok_or_else(no_budget)?;
        let program = program.trim();
        if program.is_empty() || program.contains('/') {
            return Err(no_budget());
        }
        Ok(Self {
            program: program.to_owned(),
            bytes_per_s: rate_limit::parse(rate).map_err(|why| Wrong(why.to_string()))?,
        })
    }
}

impl fmt::Display for ProgramBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = rate_limit::written(self.bytes_per_s);
        write!(f, "{}={rate}", self.program)
    }
}

written_as_text!(ProgramBudget);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_program_and_a_rate_and_round_trips() {
        for text in ["rsync=10MiB/s", "nightly.service=1GB/s", "a=b=64KiB/s"] {
            let budget: ProgramBudget = text.parse().unwrap();
            assert_eq!(budget.to_string(), text);
        }
        let budget: ProgramBudget = " rsync = 10 MiB/s ".parse().unwrap();
        assert_eq!(
            (budget.program.as_str(), budget.bytes_per_s),
            ("rsync", 10 << 20)
        );
    }

    #[test]
    fn each_invalid_form_names_the_accepted_ones() {
        let say = |text: &str| text.parse::<ProgramBudget>().unwrap_err().to_string();
        for text in ["", "rsync", "=10MiB/s", "/usr/bin/rsync=10MiB/s"] {
            assert!(say(text).contains("PROGRAM=RATE"), "{text}");
        }
        assert!(say("rsync=10MiB").contains("such as \"10MiB/s\""));
        assert!(say("rsync=fast/s").contains("is not a size"));
        assert!(say("rsync=10/s").contains("no unit"));
        assert!(say("rsync=1KiB/s").contains("the least is 64KiB/s"));
    }
}
