//! Length-limited TCP frames of the native plane.
//!
//! This module owns the messages that two nodes exchange inside TLS: first the greetings, which
//! prove membership or an invitation, then requests and their responses. Since `p2pfs/4` either end
//! sends requests, with ids of its own; before, only the dialler did.
//!
//! A frame is a length (u32, big endian, of everything after it), a request id (u32, big endian), a
//! kind (one byte) and a body. Every kind has its own limit. [`FrameHeader::decode`] checks it, so
//! that no memory is allocated for a longer body. If a frame cannot be decoded, its sender is at
//! fault and the connection must end. [`Request`] and [`Response`] are the place to start.

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
pub use frame::{FRAME_MAX_BYTES, Frame, FrameHeader, FrameKind, HEADER_BYTES, Phase};
pub use greeting::{DeclineReason, Greeting};
pub use log::{LOG_MAX_BYTES, LOG_RECORDS_MAX, LogPart, Packed, pack_records, unpack_records};
use parts::fixed;
pub use push::{GIVEN_MAX_BYTES, Push, SAID_MAX_BYTES};

/// Maximum number of bytes of a file in one request: 1 MiB, the largest read of the kernel.
pub const RANGE_MAX_BYTES: u64 = 1 << 20;
/// Maximum size of the member list in bytes: about 100 bytes for each of ten thousand members.
pub const MEMBERS_MAX_BYTES: usize = 1 << 20;
/// Maximum size in bytes of a question or an answer about the membership: 4096 statements.
pub const TRUST_MAX_BYTES: usize = 4096 * STATEMENT_MAX_BYTES + 256;
/// Maximum size in bytes of a chain of certificates in a greeting: 16 certificates.
pub const CHAIN_MAX_BYTES: usize = 16 * STATEMENT_MAX_BYTES;
/// Maximum number of heads in one frame. More heads need several requests.
pub const HEADS_MAX: usize = 4096;
/// Maximum size in bytes of a frame with heads.
pub const HEADS_MAX_BYTES: usize = HEADS_MAX * 300;
const _: () = assert!(HEADS_MAX_BYTES == HEADS_MAX * HEAD_MAX_BYTES);
/// Maximum number of ranges in a [`Response::Holdings`].
pub const HOLDINGS_RANGES_MAX: usize = 4096;
/// Maximum size in bytes of a [`Response::Holdings`]: the size of the content and the number of
/// ranges, then two varints of at most 10 bytes for each range.
pub const HOLDINGS_MAX_BYTES: usize = HOLDINGS_RANGES_MAX * 20 + 16;
/// Maximum length in bytes of the reason of a refusal or of a failed dial. A longer one is
/// truncated before it is sent.
pub const REASON_MAX_BYTES: usize = 256;
/// Maximum size in bytes of a requested file: the largest file offset of Linux.
pub const FILE_MAX_BYTES: u64 = i64::MAX as u64;

/// Which of the two connections to a peer a request uses. There are two so that a request with a
/// waiting reader does not queue behind the bulk requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// For requests that a reader or a user waits for.
    Urgent,
    /// For all other requests.
    Bulk,
}

/// A request of one node to another. If a [`Push::Say`] or a [`Push::Message`] is repeated, the
/// peer delivers it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Exchanges member lists: sends this node's list and requests the peer's.
    Members {
        /// The encoded list, opaque here, at most [`MEMBERS_MAX_BYTES`].
        members: Bytes,
    },
    /// Exchanges log heads: sends this node's heads and requests the peer's.
    Heads {
        /// At most [`HEADS_MAX`] heads.
        heads: Vec<SignedHead>,
    },
    /// Requests the records of a log after a sequence number.
    Log {
        /// Author of the log.
        author: NodeId,
        /// Epoch of the requesting node's copy of the log.
        epoch: u64,
        /// Last sequence of the requesting node's copy; 0 without a copy.
        after: u64,
    },
    /// Requests a range of a content, with its proof.
    Range {
        /// Hash of the content.
        hash: ContentHash,
        /// Size of the content in bytes.
        size_bytes: u64,
        /// A range within the size, at most [`RANGE_MAX_BYTES`]. Empty only for an empty file.
        range: ByteRange,
    },
    /// Requests several small contents whole, each with its proof. Only for a peer that speaks
    /// `p2pfs/2`.
    Batch {
        /// The files, within [`BATCH_FILES_MAX`] and [`BATCH_MAX_BYTES`].
        files: Vec<SmallFile>,
    },
    /// Requests the ranges of a content that the peer can send.
    Holdings {
        /// Hash of the content.
        hash: ContentHash,
    },
    /// Asks the peer to dial this node at the address under which the peer knows it, and to report
    /// the result.
    Reach,
    /// Sends data to the peer, which may refuse it, or asks about data that was sent.
    Push(Push),
    /// Exchanges membership statements.
    Trust {
        /// The encoded question, opaque here, at most [`TRUST_MAX_BYTES`].
        question: Bytes,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The peer's member list.
    Members {
        /// The encoded list, opaque here, at most [`MEMBERS_MAX_BYTES`].
        members: Bytes,
    },
    /// The log heads of the peer that are newer than those of the request, or missing in it.
    Heads {
        /// At most [`HEADS_MAX`] heads.
        heads: Vec<SignedHead>,
    },
    /// A part of a log.
    Log(LogPart),
    /// The range and its proof, in the format of `digest::encode`.
    Data {
        /// At most [`FRAME_MAX_BYTES`].
        proof: Bytes,
    },
    /// The results for the files of a batch.
    Batch {
        /// The parts in the format of [`PackedBatch`]; see [`unpack_batch`].
        packed: Bytes,
    },
    /// The ranges that the peer can send.
    Holdings {
        /// At most [`HOLDINGS_RANGES_MAX`] ranges.
        ranges: ExtentSet,
        /// Size of the content in bytes.
        size_bytes: u64,
    },
    /// The peer has tried to dial this node.
    Reached {
        /// The peer's clock at the end of the attempt, in milliseconds since 1970.
        unix_ms: u64,
        /// The error, truncated to [`REASON_MAX_BYTES`]; empty after a success.
        trouble: String,
    },
    /// The peer has accepted a push.
    Taken {
        /// For an offer or a part of a file: the number of its first bytes that the peer has. For a
        /// message: its size. For a chat line: 0.
        to_bytes: u64,
    },
    /// The name under which the peer keeps a file that this node sent to it.
    Kept {
        /// The name in the peer's inbox, at most 255 bytes, not trusted.
        name: Bytes,
    },
    /// Membership statements.
    Trust {
        /// The encoded answer, opaque here, at most [`TRUST_MAX_BYTES`].
        answer: Bytes,
    },
    /// The peer has lost this content: the file changed, or the cached copy is damaged.
    Gone,
    /// The peer does not have what was requested, or does not give it to this node.
    NotHere,
    /// The peer is busy. The request may be sent to another peer, or later.
    Busy,
    /// The peer refuses the request.
    Refused {
        /// The reason for the log, truncated to [`REASON_MAX_BYTES`].
        reason: String,
    },
}

impl Request {
    /// Encodes the request as a frame.
    ///
    /// # Errors
    /// [`WireError::TooLong`] or [`WireError::Malformed`] if the request exceeds a limit, which is
    /// an error of the caller.
    pub fn encode(&self, id: u32) -> Result<Frame, WireError> {
        match self {
            Self::Members { members } => Frame::new(id, FrameKind::AskMembers, members.clone()),
            Self::Heads { heads } => {
                check_count(heads.len(), HEADS_MAX)?;
                Frame::new(id, FrameKind::AskHeads, body_of(heads))
            }
            Self::Log {
                author,
                epoch,
                after,
            } => Frame::new(id, FrameKind::AskLog, body_of(&(author, epoch, after))),
            Self::Range {
                hash,
                size_bytes,
                range,
            } => {
                check_range(*size_bytes, *range)?;
                Frame::new(id, FrameKind::AskRange, body_of(&(hash, size_bytes, range)))
            }
            Self::Batch { files } => Frame::new(id, FrameKind::AskBatch, batch::question(files)?),
            Self::Holdings { hash } => Frame::new(
                id,
                FrameKind::AskHoldings,
                Bytes::copy_from_slice(hash.as_bytes()),
            ),
            Self::Reach => Frame::new(id, FrameKind::AskReach, Bytes::new()),
            Self::Push(push) => push.encode(id),
            Self::Trust { question } => Frame::new(id, FrameKind::AskTrust, question.clone()),
        }
    }

    /// Decodes the request of a frame of `kind`.
    ///
    /// # Errors
    /// [`WireError`] if the frame is not a valid request.
    pub fn decode(kind: FrameKind, body: Bytes) -> Result<Self, WireError> {
        kind.check_length(body.len())?;
        match kind {
            FrameKind::AskMembers => Ok(Self::Members { members: body }),
            FrameKind::AskTrust => Ok(Self::Trust { question: body }),
            FrameKind::AskHeads => Ok(Self::Heads {
                heads: list(&body, HEADS_MAX, "a list of heads")?,
            }),
            FrameKind::AskLog => {
                let (author, epoch, after) = parse(&body, "a request for a log")?;
                Ok(Self::Log {
                    author,
                    epoch,
                    after,
                })
            }
            FrameKind::AskRange => {
                let (hash, size_bytes, range) = parse(&body, "a request for a range")?;
                check_range(size_bytes, range)?;
                Ok(Self::Range {
                    hash,
                    size_bytes,
                    range,
                })
            }
            FrameKind::AskBatch => Ok(Self::Batch {
                files: batch::asked(&body)?,
            }),
            FrameKind::AskHoldings => {
                let hash = fixed(&body, "a request for holdings")?;
                Ok(Self::Holdings {
                    hash: ContentHash::new(hash),
                })
            }
            FrameKind::AskReach => Ok(Self::Reach),
            FrameKind::Offer
            | FrameKind::Give
            | FrameKind::Say
            | FrameKind::Message
            | FrameKind::AskKept => Push::decode(kind, &body).map(Self::Push),
            _ => Err(WireError::Malformed { what: "a request" }),
        }
    }
}

impl Response {
    /// Encodes the response as a frame. Does not copy the bytes of [`Response::Data`].
    ///
    /// # Errors
    /// [`WireError::TooLong`] if the response exceeds a limit, which is an error of the caller. A
    /// reason that is too long is truncated instead.
    pub fn encode(&self, id: u32) -> Result<Frame, WireError> {
        match self {
            Self::Members { members } => Frame::new(id, FrameKind::Members, members.clone()),
            Self::Heads { heads } => {
                check_count(heads.len(), HEADS_MAX)?;
                Frame::new(id, FrameKind::Heads, body_of(heads))
            }
            Self::Log(part) => Frame::new(id, FrameKind::Log, body_of(part)),
            Self::Data { proof } => Frame::new(id, FrameKind::Data, proof.clone()),
            Self::Batch { packed } => Frame::new(id, FrameKind::Batch, packed.clone()),
            Self::Trust { answer } => Frame::new(id, FrameKind::Trust, answer.clone()),
            Self::Holdings { ranges, size_bytes } => {
                let ranges: Vec<ByteRange> = ranges.iter().collect();
                check_count(ranges.len(), HOLDINGS_RANGES_MAX)?;
                Frame::new(id, FrameKind::Holdings, body_of(&(size_bytes, ranges)))
            }
            Self::Reached { unix_ms, trouble } => {
                let end = trouble.floor_char_boundary(REASON_MAX_BYTES);
                let said = &trouble.as_bytes()[..end];
                let body = [&unix_ms.to_be_bytes()[..], said].concat();
                Frame::new(id, FrameKind::Reached, body.into())
            }
            Self::Taken { to_bytes } => {
                let body = Bytes::copy_from_slice(&to_bytes.to_be_bytes());
                Frame::new(id, FrameKind::Taken, body)
            }
            Self::Kept { name } => Frame::new(id, FrameKind::Kept, name.clone()),
            Self::Gone => Frame::new(id, FrameKind::Gone, Bytes::new()),
            Self::NotHere => Frame::new(id, FrameKind::NotHere, Bytes::new()),
            Self::Busy => Frame::new(id, FrameKind::Busy, Bytes::new()),
            Self::Refused { reason } => {
                let end = reason.floor_char_boundary(REASON_MAX_BYTES);
                let body = Bytes::copy_from_slice(&reason.as_bytes()[..end]);
                Frame::new(id, FrameKind::Refused, body)
            }
        }
    }

    /// Decodes the response of a frame of `kind`.
    ///
    /// # Errors
    /// [`WireError`] if the frame is not a valid response.
    pub fn decode(kind: FrameKind, body: Bytes) -> Result<Self, WireError> {
        kind.check_length(body.len())?;
        match kind {
            FrameKind::Members => Ok(Self::Members { members: body }),
            FrameKind::Heads => Ok(Self::Heads {
                heads: list(&body, HEADS_MAX, "a list of heads")?,
            }),
            FrameKind::Log => Ok(Self::Log(parse(&body, "a piece of a log")?)),
            FrameKind::Data => Ok(Self::Data { proof: body }),
            FrameKind::Batch => {
                unpack_batch(&body)?;
                Ok(Self::Batch { packed: body })
            }
            FrameKind::Trust => Ok(Self::Trust { answer: body }),
            FrameKind::Holdings => {
                let what = "a list of holdings";
                let parts = postcard::take_from_bytes(&body);
                let (size_bytes, ranges) = parts.map_err(|_| WireError::Malformed { what })?;
                let ranges: Vec<ByteRange> = list(ranges, HOLDINGS_RANGES_MAX, what)?;
                Ok(Self::Holdings {
                    ranges: ExtentSet::from(ranges),
                    size_bytes,
                })
            }
            FrameKind::Reached => {
                let malformed = || WireError::Malformed { what: "a reach" };
                let (clock, said) = body.split_first_chunk().ok_or_else(malformed)?;
                let trouble = str::from_utf8(said).map_err(|_| malformed())?;
                Ok(Self::Reached {
                    unix_ms: u64::from_be_bytes(*clock),
                    trouble: trouble.to_owned(),
                })
            }
            FrameKind::Taken => Ok(Self::Taken {
                to_bytes: u64::from_be_bytes(fixed(&body, "an answer to a push")?),
            }),
            FrameKind::Kept => Ok(Self::Kept { name: body }),
            FrameKind::Gone => Ok(Self::Gone),
            FrameKind::NotHere => Ok(Self::NotHere),
            FrameKind::Busy => Ok(Self::Busy),
            FrameKind::Refused => Ok(Self::Refused {
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

/// Decodes exactly `body`. Surplus bytes are an error, as missing ones are.
fn parse<T: DeserializeOwned>(body: &[u8], what: &'static str) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(WireError::Malformed { what }),
    }
}

/// Checks that a list may be sent. The numbers in the error count items, not bytes.
fn check_count(items: usize, most: usize) -> Result<(), WireError> {
    let too_long = WireError::TooLong {
        what: "a list",
        length_bytes: items,
        limit_bytes: most,
    };
    (items <= most).then_some(()).ok_or(too_long)
}

/// Decodes a list. Refuses a list that announces more than `most` items before memory is allocated
/// for it.
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

/// Returns the reason of a refusal. Replacement characters for invalid UTF-8 may lengthen it, so it
/// is truncated again.
fn reason_of(said: &[u8]) -> String {
    let mut reason = String::from_utf8_lossy(said).into_owned();
    reason.truncate(reason.floor_char_boundary(REASON_MAX_BYTES));
    reason
}

#[cfg(test)]
mod tests;
