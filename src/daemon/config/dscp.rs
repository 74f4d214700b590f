//! The mark of bulk packets in settings: `"le"`, `"none"` or a code point.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use p2pfs_node::api::defaults;

/// Text for packets without a mark.
const UNMARKED: &str = "none";
/// Names of code points: Lower Effort (RFC 8622), and CS1, which stood for it before.
const NAMES: [(&str, u8); 2] = [("le", 1), ("cs1", 8)];
/// Largest code point; it has six bits (RFC 2474).
const CODE_POINT_MAX: u8 = 63;

/// A code point of the Differentiated Services field; `None` leaves packets unmarked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dscp(pub Option<u8>);

impl Default for Dscp {
    fn default() -> Self {
        Self(defaults::BULK_CODE_POINT)
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |it: &&(&str, u8)| Some(it.1) == self.0;
        match (self.0, NAMES.iter().find(named)) {
            (None, _) => f.write_str(UNMARKED),
            (_, Some((name, _))) => f.write_str(name),
            (Some(code_point), None) => write!(f, "{code_point}"),
        }
    }
}

impl Serialize for Dscp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(DscpVisitor)
    }
}

struct DscpVisitor;

impl Visitor<'_> for DscpVisitor {
    type Value = Dscp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"le\", \"cs1\", \"none\" or a code point from 0 to 63")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Dscp, E> {
        let known = u8::try_from(number).ok().filter(|it| *it <= CODE_POINT_MAX);
        let none = || {
            E::custom(format!(
                "{number} is not a code point: write 0 to {CODE_POINT_MAX}"
            ))
        };
        known.map(|it| Dscp(Some(it))).ok_or_else(none)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Dscp, E> {
        let below = || {
            E::custom(format!(
                "{number} is not a code point: write 0 to {CODE_POINT_MAX}"
            ))
        };
        self.visit_u64(u64::try_from(number).map_err(|_| below())?)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Dscp, E> {
        if let Ok(number) = text.parse() {
            return self.visit_u64(number);
        }
        let named = NAMES.iter().find(|(name, _)| *name == text);
        match (text == UNMARKED, named) {
            (true, _) => Ok(Dscp(None)),
            (_, Some((_, code_point))) => Ok(Dscp(Some(*code_point))),
            (false, None) => Err(E::custom(format!(
                "{text:?} is not a mark: write \"le\", \"cs1\", \"none\" or a code point from 0 to 63"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Result<Dscp, String> {
        #[derive(Deserialize)]
        struct Whole {
            dscp: Dscp,
        }
        let whole: Result<Whole, _> = toml::from_str(&format!("dscp = {value}"));
        whole.map(|it| it.dscp).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mark_is_a_name_or_a_number_and_round_trips() {
        for (value, code_point, written) in [
            ("\"le\"", Some(1), "le"),
            ("1", Some(1), "le"),
            ("\"cs1\"", Some(8), "cs1"),
            ("\"none\"", None, "none"),
            ("0", Some(0), "0"),
            ("\"10\"", Some(10), "10"),
            ("63", Some(63), "63"),
        ] {
            let read = read(value).unwrap();
            assert_eq!(
                (read.0, &*read.to_string()),
                (code_point, written),
                "{value}"
            );
        }
        assert_eq!(Dscp::default().to_string(), "le");
        for value in ["64", "-1", "\"af99\"", "true", "\"\""] {
            let said = read(value).unwrap_err();
            assert!(said.contains("63"), "{value}: {said}");
        }
    }
}
