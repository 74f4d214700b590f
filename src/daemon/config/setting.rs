//! Which settings there are, asked of the types that hold them: no second list names them.
//!
//! A configuration that holds nothing but one key is read from something that is no file: it notes
//! as what the key's type asks for a value, and ends the reading there.

use std::fmt;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::value::Error as Ended;
use serde::de::{DeserializeSeed, Deserializer, Error, Expected, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::settings::Config;

/// How a setting is written in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As it is.
    Text,
    /// A path; a relative one is absolute from the working directory.
    Path,
    /// Several, with commas between.
    List,
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the file, with its section: `cache.size`.
    pub key: String,
    /// How the environment says it.
    pub kind: Kind,
}

/// Every setting, in the order of the types.
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let mut all = Vec::new();
    collect(&[], &mut all);
    all
});

impl Setting {
    /// Its environment variable: `cache.size` is `P2PFS_CACHE_SIZE`.
    pub fn variable(&self) -> String {
        format!("P2PFS_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }

    /// The section of the file that it is in; empty above the first.
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

/// What a type asks for.
enum Asked {
    Value(Kind),
    Section(&'static [&'static str]),
}

fn collect(within: &[&'static str], all: &mut Vec<Setting>) {
    let mut asked = None;
    let reader = Reader {
        path: within,
        asked: &mut asked,
    };
    // it ends in an error wherever the path does
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

/// A configuration of one key, `path`, and what was asked of its value.
struct Reader<'a> {
    path: &'a [&'static str],
    asked: &'a mut Option<Asked>,
}

impl Reader<'_> {
    fn end<T>(self, asked: Asked) -> Result<T, Ended> {
        *self.asked = Some(asked);
        Err(Ended::custom("its kind is known"))
    }
}

macro_rules! asks {
    ($($method:ident => $kind:ident),*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Ended> {
            self.end(Asked::Value(Kind::$kind))
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Ended;

    asks!(deserialize_bool => Switch, deserialize_u8 => Number, deserialize_u16 => Number,
          deserialize_u32 => Number, deserialize_u64 => Number);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Ended> {
        // std's paths ask for a text; what they expect tells them from other texts
        let is_path = Expecting(&visitor).to_string() == "path string";
        self.end(Asked::Value(if is_path { Kind::Path } else { Kind::Text }))
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
        let element = Reader {
            path: self.path,
            asked: self.asked,
        };
        let ended = visitor.visit_seq(element);
        // a list of sections has their keys
        match self.asked {
            Some(Asked::Value(_)) if self.path.is_empty() => self.end(Asked::Value(Kind::List)),
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

impl<'de> MapAccess<'de> for Reader<'_> {
    type Error = Ended;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Ended> {
        let key = serde::de::value::StrDeserializer::new(self.path[0]);
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Ended> {
        seed.deserialize(Reader {
            path: &self.path[1..],
            asked: self.asked,
        })
    }
}

impl<'de> SeqAccess<'de> for Reader<'_> {
    type Error = Ended;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Ended> {
        let element = Reader {
            path: self.path,
            asked: self.asked,
        };
        seed.deserialize(element).map(Some)
    }
}

/// What a visitor says that it wants.
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
        assert_eq!(kind("name"), Some(Kind::Text));
        assert_eq!(kind("seeds"), Some(Kind::List));
        assert_eq!(kind("secret_file"), Some(Kind::Path));
        assert_eq!(kind("cache.size"), Some(Kind::Text));
        assert_eq!(kind("mount.enabled"), Some(Kind::Switch));
        assert_eq!(kind("mount.uid"), Some(Kind::Text));
        assert_eq!(kind("readers.budgets"), Some(Kind::List));
        assert_eq!(kind("mesh.inbox"), Some(Kind::Path));
        assert_eq!(kind("limits.up"), Some(Kind::Text));
        assert_eq!(kind("limits.peer_connections"), Some(Kind::Number));
        assert_eq!(kind("log.level"), Some(Kind::Text));
        assert_eq!(kind("share.include_private"), Some(Kind::Switch));
        assert_eq!(kind("share"), None);
    }
}
