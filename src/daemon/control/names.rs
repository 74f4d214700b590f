//! Names on the control socket. JSON holds text and a name is bytes. A name that is not UTF-8 is
//! therefore sent twice: as `path`, readable but lossy, and as `path_base64`, exact.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use data_encoding::BASE64;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::described::{Described, Field, FieldType, ObjectType, described};

/// A name or path of arbitrary bytes: `{"path": …}`, with `path_base64` if it is not UTF-8.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Named(Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(rename = "Named")]
struct Written {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    path_base64: Option<String>,
}

impl Named {
    /// Wraps the bytes of a name.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Wraps a local path.
    pub fn from_local(path: &Path) -> Self {
        Self::new(path.as_os_str().as_bytes())
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the local path with these bytes. Only for names from this machine's user: names from
    /// a peer become paths through `SharedPath` alone.
    pub fn as_local(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let path = String::from_utf8_lossy(&self.0).into_owned();
        let exact = path.as_bytes() == self.0;
        let path_base64 = (!exact).then(|| BASE64.encode(&self.0));
        Written { path, path_base64 }.serialize(serializer)
    }
}

impl Described for Named {
    fn kind() -> FieldType {
        let field = |name, about, kind| Field { name, about, kind };
        FieldType::Object(ObjectType {
            name: "Name",
            about: &[" A name or path of arbitrary bytes."],
            fields: vec![
                field("path", &[" The name as text."], FieldType::Text),
                field(
                    "path_base64",
                    &[
                        " The bytes of the name (RFC 4648), if it is not UTF-8 and the text is lossy.",
                    ],
                    FieldType::Text.optional(),
                ),
            ],
        })
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        match written.path_base64 {
            None => Ok(Self(written.path.into_bytes())),
            Some(text) => BASE64
                .decode(text.as_bytes())
                .map(Self)
                .map_err(|_| D::Error::custom("path_base64 is not base64 (RFC 4648, padded)")),
        }
    }
}

described! {
    /// A name and its problem.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Problem as "Problem" {
        /// The name or path.
        #[serde(flatten)]
        pub path: Named,
        /// The problem.
        pub why: String,
    }
}

described! {
    /// The type of a name's target.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum EntryKind {
        /// A regular file.
        File,
        /// A directory.
        Directory,
        /// A symbolic link within its share.
        Symlink,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_utf8_name_is_written_once_and_any_other_twice() {
        let plain = serde_json::to_value(Named::new("a b/ü")).unwrap();
        assert_eq!(plain, serde_json::json!({"path": "a b/ü"}));
        let raw = serde_json::to_value(Named::new(b"caf\xe9".to_vec())).unwrap();
        assert_eq!(
            raw,
            serde_json::json!({"path": "caf\u{fffd}", "path_base64": "Y2Fm6Q=="})
        );
    }

    #[test]
    fn invalid_base64_is_refused() {
        for bad in ["Z", "Zg", "Zg=", "Zg===", "====", "Z g=", "Zé==", "Zm=v"] {
            let text = format!(r#"{{"path": "x", "path_base64": "{bad}"}}"#);
            assert!(serde_json::from_str::<Named>(&text).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_survives_json(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let name = Named::new(bytes);
            let text = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<Named>(&text).unwrap(), name);
        }
    }
}
