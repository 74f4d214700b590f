//! Length-limited frames of the native plane's TCP side.
//!
//! Owns what two nodes say to each other inside TLS: the greeting that proves membership, then
//! requests one way and responses the other. A frame is a length (u32, big endian, of what follows
//! it), a request id (u32, big endian), a kind (one byte) and a body. Every kind has its own limit,
//! checked on the header before a body is read or memory taken for it. An error leaves nothing
//! behind: the sender is at fault, and the connection is of no more use.

pub mod batch;
pub mod frame;
mod greeting;
pub mod log;
mod parts;
pub mod push;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::wire::WireError;
use crate::wire::native::record::SignedHead;
use crate::wire::native::udp::{HEAD_MAX_BYTES, STATEMENT_MAX_BYTES};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::{ByteRange, ExtentSet};
use p2pfs_types::id::NodeId;

pub use batch::{
    BATCH_FILE_MAX_BYTES, BATCH_FILES_MAX, BATCH_MAX_BYTES, BatchPart, PackedBatch, SmallFile,
    unpack_batch,
};
pub use frame::{FRAME_MAX_BYTES, Frame, FrameHeader, HEADER_BYTES, Kind, Phase};
pub use greeting::Greeting;
pub use log::{LOG_MAX_BYTES, LOG_RECORDS_MAX, LogPart, Packed, pack_records, unpack_records};
use parts::fixed;
pub use push::{GIVEN_MAX_BYTES, Push, SAID_MAX_BYTES};

/// The most bytes of a file that one request asks for: 1 MiB, the largest read of the kernel.
pub const RANGE_MAX_BYTES: u64 = 1 << 20;
/// The longest member list: some 100 bytes a member for ten thousand of them.
pub const MEMBERS_MAX_BYTES: usize = 1 << 20;
/// The longest question or answer about who is in: 4096 statements.
pub const TRUST_MAX_BYTES: usize = 4096 * STATEMENT_MAX_BYTES + 256;
/// The longest chain of certificates in a greeting: 16 of them.
pub const CHAIN_MAX_BYTES: usize = 16 * STATEMENT_MAX_BYTES;
/// The most heads in one frame; more go in several requests.
pub const HEADS_MAX: usize = 4096;
/// The longest frame of heads.
pub const HEADS_MAX_BYTES: usize = HEADS_MAX * 300;
const _: () = assert!(HEADS_MAX_BYTES == HEADS_MAX * HEAD_MAX_BYTES);
/// The most ranges in one description of what a node holds of a file.
pub const HOLDINGS_RANGES_MAX: usize = 4096;
/// The longest description of what a node holds: two varints of at most 10 bytes a range.
pub const HOLDINGS_MAX_BYTES: usize = HOLDINGS_RANGES_MAX * 20 + 16;
/// The longest reason of a refusal; a longer one is cut when it is sent.
pub const REASON_MAX_BYTES: usize = 256;
/// The largest file that can be asked for: what a file offset of Linux can say.
pub const FILE_MAX_BYTES: u64 = i64::MAX as u64;

/// Which of the two connections to a peer a request takes, so that what a reader waits for never
/// stands behind what merely fills the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Someone waits for the answer.
    Urgent,
    /// Nobody does yet.
    Bulk,
}

/// What one node asks of another. All of them can be repeated without harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Push-pull of the member list: here is mine, give me yours.
    Members {
        /// Opaque here; at most [`MEMBERS_MAX_BYTES`].
        members: Bytes,
    },
    /// Here are the heads that I know, give me those that you know.
    Heads {
        /// At most [`HEADS_MAX`].
        heads: Vec<SignedHead>,
    },
    /// The records of a log after a sequence number.
    Log {
        /// Whose log.
        author: NodeId,
        /// Which life of the log the asker has.
        epoch: u64,
        /// The last sequence that the asker has; 0 for none.
        after: u64,
    },
    /// A range of a content, with its proof.
    Range {
        /// Which content.
        hash: ContentHash,
        size_bytes: u64,
        /// Within the size, at most [`RANGE_MAX_BYTES`]; empty only for an empty file.
        range: ByteRange,
    },
    /// Many small contents whole, each with its proof. Only of a node that speaks `p2pfs/2`.
    Batch {
        /// Within [`BATCH_FILES_MAX`] and [`BATCH_MAX_BYTES`].
        files: Vec<SmallFile>,
    },
    /// What of a content the peer could give.
    Holdings {
        /// Which content.
        hash: ContentHash,
    },
    /// Dial me where you know me, and tell how it went.
    Reach,
    /// Something for the peer, which it may refuse.
    Push(Push),
    /// Who is in, as we know it.
    Trust {
        /// Opaque here; at most [`TRUST_MAX_BYTES`].
        question: Bytes,
    },
}

/// What the other node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// Its member list.
    Members {
        /// Opaque here; at most [`MEMBERS_MAX_BYTES`].
        members: Bytes,
    },
    /// The heads that it knows.
    Heads {
        /// At most [`HEADS_MAX`].
        heads: Vec<SignedHead>,
    },
    /// A piece of a log.
    Log(LogPart),
    /// The range and its proof, as `digest::encode` gives them.
    Data {
        /// At most [`FRAME_MAX_BYTES`].
        proof: Bytes,
    },
    /// What it has of a batch.
    Batch {
        /// As [`PackedBatch`] makes it; see [`unpack_batch`].
        packed: Bytes,
    },
    /// What it could give.
    Holdings {
        /// At most [`HOLDINGS_RANGES_MAX`].
        ranges: ExtentSet,
        /// The size of the content.
        size_bytes: u64,
    },
    /// It dialled back.
    Reached {
        /// Its clock when it was done, in milliseconds of Unix time.
        unix_ms: u64,
        /// What went wrong, at most [`REASON_MAX_BYTES`], the rest is cut; empty where nothing
        /// did.
        trouble: String,
    },
    /// How much of what was pushed it has from its begin on; all of it where it keeps it.
    Taken {
        /// Of a file; 0 for anything else.
        to_bytes: u64,
    },
    /// Who is in, as it knows it.
    Trust {
        /// Opaque here; at most [`TRUST_MAX_BYTES`].
        answer: Bytes,
    },
    /// The file changed under its hash: it has this content no more.
    Gone,
    /// It never had this.
    NotHere,
    /// Not now: ask another, or later.
    Busy,
    /// Not at all.
    Refused {
        /// For a log; at most [`REASON_MAX_BYTES`], the rest is cut.
        reason: String,
    },
}

impl Request {
    /// The frame of this request.
    ///
    /// # Errors
    /// [`WireError::TooLong`] or [`WireError::Malformed`] where it is over a limit: our own fault.
    pub fn encode(&self, id: u32) -> Result<Frame, WireError> {
        match self {
            Self::Members { members } => Frame::new(id, Kind::AskMembers, members.clone()),
            Self::Heads { heads } => {
                check_count(heads.len(), HEADS_MAX)?;
                Frame::new(id, Kind::AskHeads, body_of(heads))
            }
            Self::Log {
                author,
                epoch,
                after,
            } => Frame::new(id, Kind::AskLog, body_of(&(author, epoch, after))),
            Self::Range {
                hash,
                size_bytes,
                range,
            } => {
                check_range(*size_bytes, *range)?;
                Frame::new(id, Kind::AskRange, body_of(&(hash, size_bytes, range)))
            }
            Self::Batch { files } => Frame::new(id, Kind::AskBatch, batch::question(files)?),
            Self::Holdings { hash } => Frame::new(
                id,
                Kind::AskHoldings,
                Bytes::copy_from_slice(hash.as_bytes()),
            ),
            Self::Reach => Frame::new(id, Kind::AskReach, Bytes::new()),
            Self::Push(push) => push.encode(id),
            Self::Trust { question } => Frame::new(id, Kind::AskTrust, question.clone()),
        }
    }

    /// The request that a frame of `kind` carries.
    ///
    /// # Errors
    /// [`WireError`] where it carries none.
    pub fn decode(kind: Kind, body: Bytes) -> Result<Self, WireError> {
        kind.check_length(body.len())?;
        match kind {
            Kind::AskMembers => Ok(Self::Members { members: body }),
            Kind::AskTrust => Ok(Self::Trust { question: body }),
            Kind::AskHeads => Ok(Self::Heads {
                heads: list(&body, HEADS_MAX, "a list of heads")?,
            }),
            Kind::AskLog => {
                let (author, epoch, after) = parse(&body, "a request for a log")?;
                Ok(Self::Log {
                    author,
                    epoch,
                    after,
                })
            }
            Kind::AskRange => {
                let (hash, size_bytes, range) = parse(&body, "a request for a range")?;
                check_range(size_bytes, range)?;
                Ok(Self::Range {
                    hash,
                    size_bytes,
                    range,
                })
            }
            Kind::AskBatch => Ok(Self::Batch {
                files: batch::asked(&body)?,
            }),
            Kind::AskHoldings => {
                let hash = fixed(&body, "a request for holdings")?;
                Ok(Self::Holdings {
                    hash: ContentHash::new(hash),
                })
            }
            Kind::AskReach => Ok(Self::Reach),
            Kind::Offer | Kind::Give | Kind::Say | Kind::Message => {
                Push::decode(kind, &body).map(Self::Push)
            }
            _ => Err(WireError::Malformed { what: "a request" }),
        }
    }
}

impl Response {
    /// The frame of this response. The bytes of [`Response::Data`] are not copied.
    ///
    /// # Errors
    /// [`WireError::TooLong`] where it is over a limit: our own fault.
    pub fn encode(&self, id: u32) -> Result<Frame, WireError> {
        match self {
            Self::Members { members } => Frame::new(id, Kind::Members, members.clone()),
            Self::Heads { heads } => {
                check_count(heads.len(), HEADS_MAX)?;
                Frame::new(id, Kind::Heads, body_of(heads))
            }
            Self::Log(part) => Frame::new(id, Kind::Log, body_of(part)),
            Self::Data { proof } => Frame::new(id, Kind::Data, proof.clone()),
            Self::Batch { packed } => Frame::new(id, Kind::Batch, packed.clone()),
            Self::Trust { answer } => Frame::new(id, Kind::Trust, answer.clone()),
            Self::Holdings { ranges, size_bytes } => {
                let ranges: Vec<ByteRange> = ranges.iter().collect();
                check_count(ranges.len(), HOLDINGS_RANGES_MAX)?;
                Frame::new(id, Kind::Holdings, body_of(&(size_bytes, ranges)))
            }
            Self::Reached { unix_ms, trouble } => {
                let end = trouble.floor_char_boundary(REASON_MAX_BYTES);
                let said = &trouble.as_bytes()[..end];
                let body = [&unix_ms.to_be_bytes()[..], said].concat();
                Frame::new(id, Kind::Reached, body.into())
            }
            Self::Taken { to_bytes } => {
                let body = Bytes::copy_from_slice(&to_bytes.to_be_bytes());
                Frame::new(id, Kind::Taken, body)
            }
            Self::Gone => Frame::new(id, Kind::Gone, Bytes::new()),
            Self::NotHere => Frame::new(id, Kind::NotHere, Bytes::new()),
            Self::Busy => Frame::new(id, Kind::Busy, Bytes::new()),
            Self::Refused { reason } => {
                let end = reason.floor_char_boundary(REASON_MAX_BYTES);
                let body = Bytes::copy_from_slice(&reason.as_bytes()[..end]);
                Frame::new(id, Kind::Refused, body)
            }
        }
    }

    /// The response that a frame of `kind` carries.
    ///
    /// # Errors
    /// [`WireError`] where it carries none.
    pub fn decode(kind: Kind, body: Bytes) -> Result<Self, WireError> {
        kind.check_length(body.len())?;
        match kind {
            Kind::Members => Ok(Self::Members { members: body }),
            Kind::Heads => Ok(Self::Heads {
                heads: list(&body, HEADS_MAX, "a list of heads")?,
            }),
            Kind::Log => Ok(Self::Log(parse(&body, "a piece of a log")?)),
            Kind::Data => Ok(Self::Data { proof: body }),
            Kind::Batch => {
                unpack_batch(&body)?;
                Ok(Self::Batch { packed: body })
            }
            Kind::Trust => Ok(Self::Trust { answer: body }),
            Kind::Holdings => {
                let what = "a list of holdings";
                let parts = postcard::take_from_bytes(&body);
                let (size_bytes, ranges) = parts.map_err(|_| WireError::Malformed { what })?;
                let ranges: Vec<ByteRange> = list(ranges, HOLDINGS_RANGES_MAX, what)?;
                Ok(Self::Holdings {
                    ranges: ExtentSet::from(ranges),
                    size_bytes,
                })
            }
            Kind::Reached => {
                let malformed = || WireError::Malformed { what: "a reach" };
                let (clock, said) = body.split_first_chunk().ok_or_else(malformed)?;
                let trouble = str::from_utf8(said).map_err(|_| malformed())?;
                Ok(Self::Reached {
                    unix_ms: u64::from_be_bytes(*clock),
                    trouble: trouble.to_owned(),
                })
            }
            Kind::Taken => Ok(Self::Taken {
                to_bytes: u64::from_be_bytes(fixed(&body, "an answer to a push")?),
            }),
            Kind::Gone => Ok(Self::Gone),
            Kind::NotHere => Ok(Self::NotHere),
            Kind::Busy => Ok(Self::Busy),
            Kind::Refused => Ok(Self::Refused {
                reason: reason_of(&body),
            }),
            _ => Err(WireError::Malformed { what: "a response" }),
        }
    }
}

fn check_range(size_bytes: u64, range: ByteRange) -> Result<(), WireError> {
    let inside = range.end <= size_bytes && (!range.is_empty() || size_bytes == 0);
    if !inside || range.len() > RANGE_MAX_BYTES || size_bytes > FILE_MAX_BYTES {
        return Err(WireError::Malformed {
            what: "a request for a range",
        });
    }
    Ok(())
}

fn body_of(value: &impl Serialize) -> Bytes {
    Bytes::from(postcard::to_stdvec(value).expect("plain data always encodes"))
}

/// Decodes exactly `body`: what is left over is as wrong as what is missing.
fn parse<T: DeserializeOwned>(body: &[u8], what: &'static str) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(WireError::Malformed { what }),
    }
}

/// Whether a list may be sent; the numbers of the error are items, not bytes.
fn check_count(items: usize, most: usize) -> Result<(), WireError> {
    let too_long = WireError::TooLong {
        what: "a list",
        length_bytes: items,
        limit_bytes: most,
    };
    (items <= most).then_some(()).ok_or(too_long)
}

/// As [`parse`], for a list: one that announces more is refused before memory is taken for it.
fn list<T: DeserializeOwned>(
    body: &[u8],
    most: usize,
    what: &'static str,
) -> Result<Vec<T>, WireError> {
    match postcard::take_from_bytes::<usize>(body) {
        Ok((announced, _)) if announced <= most => parse(body, what),
        _ => Err(WireError::Malformed { what }),
    }
}

/// What was said of a refusal; what stands for bytes that are no text may not make it too long.
fn reason_of(said: &[u8]) -> String {
    let mut reason = String::from_utf8_lossy(said).into_owned();
    reason.truncate(reason.floor_char_boundary(REASON_MAX_BYTES));
    reason
}

#[cfg(test)]
mod tests;
