//! The permission masks of the mount in settings, such as `"022"`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::units::Wrong;

/// All bits of a mask: read, write and execute, for owner, group and others.
const ALL: u16 = 0o777;

/// Permissions that are removed, as by umask(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeMask(pub u16);

fn no_mask(text: &str) -> Wrong {
    let how = "write octal digits in quotes, \"000\" to \"777\", such as \"022\"";
    Wrong(format!("{text:?} is not a mask: {how}"))
}

impl FromStr for ModeMask {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        let digits = text.trim();
        let digits = digits.strip_prefix("0o").unwrap_or(digits);
        let is_octal = !digits.is_empty() && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mask = is_octal.then(|| u16::from_str_radix(digits, 8).ok());
        match mask.flatten() {
            Some(mask) if mask <= ALL => Ok(Self(mask)),
            _ => Err(no_mask(text)),
        }
    }
}

impl fmt::Display for ModeMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03o}", self.0)
    }
}

impl Serialize for ModeMask {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModeMask {
    /// Accepts text only. A number is refused, because `22` could be meant as octal or as decimal.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(from)? {
            toml::Value::String(text) => text.parse(),
            other => Err(no_mask(&other.to_string())),
        }
        .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<ModeMask, String> {
        let table: toml::Table = format!("mask = {toml}").parse().unwrap();
        let mask = table["mask"].clone().try_into();
        mask.map_err(|error: toml::de::Error| error.to_string())
    }

    #[test]
    fn a_mask_is_quoted_octal_digits_and_round_trips() {
        for (text, mask) in [("022", 0o22), ("0027", 0o27), ("0", 0), ("0o777", 0o777)] {
            assert_eq!(read(&format!("{text:?}")), Ok(ModeMask(mask)));
            assert_eq!(ModeMask(mask).to_string().parse(), Ok(ModeMask(mask)));
        }
    }

    #[test]
    fn an_ambiguous_or_impossible_mask_is_refused() {
        for toml in [
            "22", "0o22", "true", "\"\"", "\"1000\"", "\"8\"", "\"u=rw\"", "\"-1\"",
        ] {
            let error = read(toml).unwrap_err();
            assert!(error.contains("such as \"022\""), "{toml}: {error}");
        }
    }
}
