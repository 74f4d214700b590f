//! Parts of logs: records packed with postcard and zstd, with limits before and after unpacking.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::list;
use crate::wire::WireError;
use crate::wire::native::link::LINK_TARGET_MAX_BYTES;
use crate::wire::native::record::{Fact, Kind, REPLACES_MAX, Record, SignedHead, Timestamp};

/// Maximum number of records in one part.
pub const LOG_RECORDS_MAX: usize = 4096;
/// Maximum size of one part in bytes before compression: 1 MiB.
const LOG_RAW_MAX_BYTES: usize = 1 << 20;
/// Maximum size in bytes of the frame of a part: 1 MiB that zstd cannot compress (its own bound
/// adds 1/256), and the head.
pub const LOG_MAX_BYTES: usize = LOG_RAW_MAX_BYTES + LOG_RAW_MAX_BYTES / 256 + 1024;
/// Maximum size in bytes of the number of records, which precedes them: a varint of 4096.
const COUNT_BYTES: usize = 2;
/// Compression level of zstd. Level 1 already finds the repeated directory names and costs a few ms
/// for each MiB.
const LEVEL: i32 = 1;
const NANOSECONDS: u32 = 1_000_000_000;

/// A part of a node's log, in answer to a request for the records after a sequence number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPart {
    /// The author's signed head, which the log matches after the last part.
    pub head: SignedHead,
    /// Whether the receiver must discard its copy of this log. The records are then a snapshot from
    /// the beginning.
    pub fresh: bool,
    /// The records, packed by [`pack_records`]. [`unpack_records`] unpacks them.
    pub records: Bytes,
    /// Whether this is the last part.
    pub last: bool,
}

/// Result of [`pack_records`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The value of [`LogPart::records`].
    pub bytes: Bytes,
    /// Number of the given records that are packed, counted from the first. At least one if any was
    /// given.
    pub count: usize,
}

/// Packs as many records as one part may have.
///
/// # Errors
/// [`WireError::TooLong`] if the first record alone exceeds the limit. A record within the limits
/// of [`record`](crate::wire::native::record) never does.
pub fn pack_records<'a>(
    records: impl IntoIterator<Item = &'a Record>,
) -> Result<Packed, WireError> {
    let mut encoded = Vec::new();
    let mut count = 0;
    for record in records {
        let one = postcard::to_stdvec(record).expect("a record always encodes");
        if count == LOG_RECORDS_MAX || encoded.len() + one.len() > LOG_RAW_MAX_BYTES - COUNT_BYTES {
            if count == 0 {
                return Err(too_long(one.len()));
            }
            break;
        }
        encoded.extend_from_slice(&one);
        count += 1;
    }
    let mut raw = postcard::to_stdvec(&count).expect("a number always encodes");
    raw.append(&mut encoded);
    let packed = zstd::bulk::compress(&raw, LEVEL);
    let bytes = packed.map_err(|_| WireError::Malformed {
        what: "a list of records",
    })?;
    Ok(Packed {
        bytes: Bytes::from(bytes),
        count,
    })
}

/// Unpacks the result of [`pack_records`]. Allocates at most 1 MiB for the raw bytes, whatever the
/// packed ones announce.
///
/// # Errors
/// [`WireError`] if the bytes are not such a result, have more than [`LOG_RECORDS_MAX`] records, or
/// contain an invalid [`Fact::Entry`] or [`Fact::Gone`]: a link target that is too long, a full
/// second of nanoseconds or more, the root as its path, or more than [`REPLACES_MAX`] contents. The
/// same holds for a [`Fact::Keeps`] beyond its limits.
pub fn unpack_records(packed: &[u8]) -> Result<Vec<Record>, WireError> {
    const WHAT: &str = "a list of records";
    if packed.len() > LOG_MAX_BYTES {
        return Err(too_long(packed.len()));
    }
    let raw = zstd::bulk::decompress(packed, LOG_RAW_MAX_BYTES);
    let raw = raw.map_err(|_| WireError::Malformed { what: WHAT })?;
    let records: Vec<Record> = list(&raw, LOG_RECORDS_MAX, WHAT)?;
    if !records.iter().all(is_well_formed) {
        return Err(WireError::Malformed { what: WHAT });
    }
    Ok(records)
}

fn is_well_formed(record: &Record) -> bool {
    let times_fit = |times: &[Timestamp]| times.iter().all(|time| time.nanoseconds < NANOSECONDS);
    let (entry, path) = match &record.fact {
        Fact::Entry { entry, path, .. } => (entry, path),
        Fact::Gone {
            path,
            replaces,
            time,
        } => return replaces.len() <= REPLACES_MAX && times_fit(&[*time]) && !path.is_root(),
        Fact::Keeps(offer) => return offer.fits(),
        _ => return true,
    };
    let target_fits = match &entry.kind {
        Kind::Symlink { target } => target.len() <= LINK_TARGET_MAX_BYTES,
        Kind::File { .. } | Kind::Directory => true,
    };
    target_fits
        && times_fit(&[entry.mtime, entry.version_time])
        && entry.replaces.len() <= REPLACES_MAX
        && !path.is_root()
}

fn too_long(length_bytes: usize) -> WireError {
    let what = "a list of records";
    WireError::TooLong {
        what,
        length_bytes,
        limit_bytes: LOG_RAW_MAX_BYTES,
    }
}
