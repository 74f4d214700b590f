//! Requests and offers of files between nodes, in sealed datagrams.

use serde::{Deserialize, Serialize};

use super::{DatagramError, PAYLOAD_MAX_BYTES};
use crate::wire::native::tcp::Lane;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// Maximum number of files in one [`Message::Get`]: as many as fit into [`PAYLOAD_MAX_BYTES`].
pub const GET_HASHES_MAX: usize = 26;
/// Maximum number of ranges in one [`Message::Offer`].
pub const OFFER_RANGES_MAX: usize = 16;
/// Maximum number of recent askers in one [`Message::Offer`].
pub const OFFER_ASKERS_MAX: usize = 8;

/// A body of [`super::DatagramFrame::Message`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Asks the receiver for an offer of each of these files of which it has a part.
    Get {
        /// From 1 to [`GET_HASHES_MAX`] hashes.
        hashes: Vec<ContentHash>,
    },
    /// Offers a part of a file.
    Offer(OfferSummary),
    /// Asks the receiver to dial the sender, which cannot dial the receiver. Only for a node that
    /// speaks `p2pfs/4`.
    Call {
        /// Lane of the connection.
        lane: Lane,
    },
}

/// The parts of one file that a node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferSummary {
    /// Hash of the content.
    pub hash: ContentHash,
    /// Size of the content in bytes.
    pub size_bytes: u64,
    /// Whether the node has every byte; `ranges` is then not needed.
    pub all: bool,
    /// Some of the ranges that the node has, at most [`OFFER_RANGES_MAX`].
    pub ranges: Vec<ByteRange>,
    /// Load of the node, from 0 (idle) to 255 (will refuse).
    pub load: u8,
    /// Nodes that recently asked for the file, at most [`OFFER_ASKERS_MAX`].
    pub askers: Vec<NodeId>,
}

impl Message {
    /// Encodes the payload of a datagram.
    ///
    /// # Errors
    /// [`DatagramError::TooLong`] if a list exceeds its limit, [`DatagramError::Malformed`] for a
    /// request without hashes.
    pub fn encode(&self) -> Result<Vec<u8>, DatagramError> {
        self.check()?;
        let bytes = postcard::to_stdvec(self).map_err(|_| DatagramError::Malformed)?;
        if bytes.len() > PAYLOAD_MAX_BYTES {
            return Err(DatagramError::TooLong { what: "message" });
        }
        Ok(bytes)
    }

    /// Decodes the payload of a datagram.
    ///
    /// # Errors
    /// [`DatagramError::TooLong`] and [`DatagramError::Malformed`] if the bytes are not exactly one
    /// message within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DatagramError> {
        if bytes.len() > PAYLOAD_MAX_BYTES {
            return Err(DatagramError::TooLong { what: "message" });
        }
        let (message, rest) =
            postcard::take_from_bytes::<Self>(bytes).map_err(|_| DatagramError::Malformed)?;
        if !rest.is_empty() {
            return Err(DatagramError::Malformed);
        }
        message.check()?;
        Ok(message)
    }

    fn check(&self) -> Result<(), DatagramError> {
        match self {
            Self::Get { hashes } if hashes.is_empty() => Err(DatagramError::Malformed),
            Self::Get { hashes } if hashes.len() > GET_HASHES_MAX => Err(DatagramError::TooLong {
                what: "list of hashes",
            }),
            Self::Offer(offer) if offer.ranges.len() > OFFER_RANGES_MAX => {
                Err(DatagramError::TooLong {
                    what: "list of ranges",
                })
            }
            Self::Offer(offer) if offer.askers.len() > OFFER_ASKERS_MAX => {
                Err(DatagramError::TooLong {
                    what: "list of askers",
                })
            }
            _ => Ok(()),
        }
    }
}
