//! Names on the control socket. JSON holds text and a name is bytes, so a name that is not UTF-8
//! travels twice: as `path`, readable but lossy, and as `path_base64`, exact.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name or path, in whatever bytes; `{"path": …}`, with `path_base64` where that is not UTF-8.
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

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The local path that these bytes spell. Only for names that come from this machine's user;
    /// what comes from a peer becomes a path by `SharedPath` alone.
    pub fn as_local(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let path = String::from_utf8_lossy(&self.0).into_owned();
        let exact = path.as_bytes() == self.0;
        let path_base64 = (!exact).then(|| to_base64(&self.0));
        Written { path, path_base64 }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        match written.path_base64 {
            None => Ok(Self(written.path.into_bytes())),
            Some(text) => from_base64(&text)
                .map(Self)
                .ok_or_else(|| D::Error::custom("path_base64 is not base64 (RFC 4648, padded)")),
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648, section 4).
fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let value = group
            .iter()
            .fold(0_u32, |value, byte| value << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for digit in 0..4 {
            if digit <= group.len() {
                let index = value >> (18 - 6 * digit) & 63;
                text.push(char::from(ALPHABET[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// The bytes of padded base64, or nothing where the text is anything else.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for group in digits.as_bytes().chunks(4) {
        let mut value = 0_u32;
        for digit in group {
            let index = ALPHABET.iter().position(|letter| letter == digit)?;
            value = value << 6 | index as u32;
        }
        value <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&value.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_utf8_name_is_written_once_and_another_twice() {
        let plain = serde_json::to_value(Named::new("a b/ü")).unwrap();
        assert_eq!(plain, serde_json::json!({"path": "a b/ü"}));
        let raw = serde_json::to_value(Named::new(b"caf\xe9".to_vec())).unwrap();
        assert_eq!(
            raw,
            serde_json::json!({"path": "caf\u{fffd}", "path_base64": "Y2Fm6Q=="})
        );
    }

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(to_base64(plain.as_bytes()), coded);
            assert_eq!(from_base64(coded).as_deref(), Some(plain.as_bytes()));
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
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
