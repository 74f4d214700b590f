//! Users and groups in settings: by name or by number.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Visitor};

struct Account {
    what: &'static str,
    find: fn(&str) -> Option<u32>,
}

impl Visitor<'_> for Account {
    type Value = Option<u32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name or the number of a {}", self.what)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        let known = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
        known.map(Some).ok_or_else(|| {
            E::custom(format!(
                "{number} is the number of no {}: write 0 or more",
                self.what
            ))
        })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if let Ok(number) = text.parse::<u32>() {
            return self.visit_i64(number.into());
        }
        (self.find)(text).map(Some).ok_or_else(|| {
            let what = self.what;
            E::custom(format!(
                "there is no {what} {text:?} on this machine: write the name of one, or a number"
            ))
        })
    }
}

/// Deserializes a user, for serde's `deserialize_with`.
pub(super) fn user<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    from.deserialize_any(Account {
        what: "user",
        find: |name| uzers::get_user_by_name(name).map(|user| user.uid()),
    })
}

/// Deserializes a group, for serde's `deserialize_with`.
pub(super) fn group<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    from.deserialize_any(Account {
        what: "group",
        find: |name| uzers::get_group_by_name(name).map(|group| group.gid()),
    })
}
