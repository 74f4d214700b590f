//! The list of all settings, derived from the types that hold them, so that no second list exists.
//!
//! A special deserializer presents a configuration with a single key. It records which kind of
//! value the key's type requests, and stops there with an error.

use std::fmt;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::value::Error as Ended;
use serde::de::{DeserializeSeed, Deserializer, Error, Expected, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::settings::Config;

/// The format of a setting in an environment variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// The text as it is.
    Text,
    /// A path; a relative path is resolved against the working directory.
    Path,
    /// A list separated by commas.
    List,
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key in the file, with its section: `cache.size`.
    pub key: String,
    /// The format of its environment variable.
    pub kind: SettingKind,
}

/// All settings, in the order of the types.
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut all = Vec::new();
    collect(&[], &mut all);
    all
});

impl Setting {
    /// Returns the name of its environment variable: `cache.size` is `P2PFS_CACHE_SIZE`.
    pub fn variable(&self) -> String {
        format!("P2PFS_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    /// Returns the section of the file; empty for a key above the first section.
    pub(super) fn section(&self) -> &str {
        self.key.split_once('.').map_or("", |(section, _)| section)
    }

    pub(super) fn of<'a>(&self, table: &'a toml::Table) -> Option<&'a toml::Value> {
        match self.key.split_once('.') {
            None => table.get(&self.key),
            Some((section, key)) => table.get(section)?.get(key),
        }
    }
}

/// The kind of value that a type requests.
enum Asked {
    Value(SettingKind),
    Section(&'static [&'static str]),
}

fn collect(within: &[&'static str], all: &mut Vec<Setting>) {
    let mut asked = None;
    let reader = SettingReader {
        path: within,
        asked: &mut asked,
    };
    // The deserializer always stops with an error, at the end of the path.
    let _ended = Config::deserialize(reader);
    match asked {
        Some(Asked::Section(keys)) => {
            for key in keys {
                collect(&[within, &[*key]].concat(), all);
            }
        }
        Some(Asked::Value(kind)) => all.push(Setting {
            key: within.join("."),
            kind,
        }),
        None => {}
    }
}

/// A configuration with one key, `path`, and the requested kind of its value.
struct SettingReader<'a> {
    path: &'a [&'static str],
    asked: &'a mut Option<Asked>,
}

impl SettingReader<'_> {
    fn end<T>(self, asked: Asked) -> Result<T, Ended> {
        *self.asked = Some(asked);
        Err(Ended::custom("its kind is known"))
    }
}

macro_rules! asks {
    ($($method:ident => $kind:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Ended> {
            self.end(Asked::Value(SettingKind::$kind))
        })*
    };
}

impl<'de> Deserializer<'de> for SettingReader<'_> {
    type Error = Ended;

    asks!(deserialize_bool => Switch, deserialize_u8 => Number, deserialize_u16 => Number,
          deserialize_u32 => Number, deserialize_u64 => Number);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        // std's paths request a text. Only their expected type distinguishes them from other texts.
        let is_path = Expecting(&visitor).to_string() == "path string";
        self.end(Asked::Value(if is_path {
            SettingKind::Path
        } else {
            SettingKind::Text
        }))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Ended> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        let element = SettingReader {
            path: self.path,
            asked: self.asked,
        };
        let ended = visitor.visit_seq(element);
        // The keys of a list of sections are those of its elements.
        match self.asked {
            Some(Asked::Value(_)) if self.path.is_empty() => {
                self.end(Asked::Value(SettingKind::List))
            }
            _ => ended,
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Ended> {
        match self.path {
            [] => self.end(Asked::Section(fields)),
            _ => visitor.visit_map(self),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct map enum identifier ignored_any
    }
}

impl<'de> MapAccess<'de> for SettingReader<'_> {
    type Error = Ended;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Ended> {
        let key = serde::de::value::StrDeserializer::new(self.path[0]);
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Ended> {
        seed.deserialize(SettingReader {
            path: &self.path[1..],
            asked: self.asked,
        })
    }
}

impl<'de> SeqAccess<'de> for SettingReader<'_> {
    type Error = Ended;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Ended> {
        let element = SettingReader {
            path: self.path,
            asked: self.asked,
        };
        seed.deserialize(element).map(Some)
    }
}

/// A wrapper that prints a visitor's expected type.
struct Expecting<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> fmt::Display for Expecting<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Expected::fmt(self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_setting_is_known_by_its_type() {
        let kind = |key: &str| {
            let setting = SETTINGS.iter().find(|setting| setting.key == key);
            setting.map(|setting| setting.kind)
        };
        assert_eq!(SETTINGS[0].key, "name");
        assert_eq!(kind("name"), Some(SettingKind::Text));
        assert_eq!(kind("seeds"), Some(SettingKind::List));
        assert_eq!(kind("secret_file"), Some(SettingKind::Path));
        assert_eq!(kind("cache.size"), Some(SettingKind::Text));
        assert_eq!(kind("mount.enabled"), Some(SettingKind::Switch));
        assert_eq!(kind("mount.uid"), Some(SettingKind::Text));
        assert_eq!(kind("readers.budgets"), Some(SettingKind::List));
        assert_eq!(kind("mesh.inbox"), Some(SettingKind::Path));
        assert_eq!(kind("limits.up"), Some(SettingKind::Text));
        assert_eq!(kind("limits.peer_connections"), Some(SettingKind::Number));
        assert_eq!(kind("log.level"), Some(SettingKind::Text));
        assert_eq!(kind("share.include_private"), Some(SettingKind::Switch));
        assert_eq!(kind("share"), None);
    }
}
