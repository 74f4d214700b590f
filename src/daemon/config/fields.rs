//! Readers and writers for fields of the settings if the type alone does not define the format.
//! Owns no field.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

use p2pfs_node::api::{SharePlace, check_patterns};

pub(super) fn absolute<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if path.is_absolute() {
        return Ok(path);
    }
    let said = path.display().to_string();
    Err(Error::custom(format!(
        "{said:?} is not an absolute path: begin it with /"
    )))
}

pub(super) fn listen_address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    parse_listen_address(&String::deserialize(from)?).map_err(Error::custom)
}

/// Parses an address to listen on, of the configuration or of `--listen`.
///
/// # Errors
/// A sentence with the accepted form.
pub fn parse_listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not an address to listen on: write ADDRESS:PORT, such as 0.0.0.0:1378 or \
             [::]:1378"
        )
    })
}

pub(super) fn optional_absolute<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<PathBuf>, D::Error> {
    absolute(from).map(Some)
}

/// Serializes a path as text. A path from the command line may not be UTF-8, which TOML cannot
/// represent.
pub(super) fn lossy<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

pub(super) fn optional_lossy<S: Serializer>(
    path: &Option<PathBuf>,
    to: S,
) -> Result<S::Ok, S::Error> {
    lossy(path.as_deref().unwrap_or(Path::new("")), to)
}

pub(super) fn yes() -> bool {
    true
}

pub(super) fn patterns<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let patterns = Vec::deserialize(from)?;
    check_patterns(&patterns).map_err(Error::custom)?;
    Ok(patterns)
}

pub(super) fn share_place<'de, D: Deserializer<'de>>(from: D) -> Result<SharePlace, D::Error> {
    SharePlace::new(&String::deserialize(from)?).map_err(Error::custom)
}

pub(super) fn share_place_text<S: Serializer>(
    place: &SharePlace,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_str(place)
}

pub(super) fn positive<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        0 => Err(Error::custom("0 is impossible here: write 1 or more")),
        number => Ok(number),
    }
}

pub(super) fn optional_listen_address<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    listen_address(from).map(Some)
}
