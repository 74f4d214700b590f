//! What nodes ask and offer each other about files, over sealed datagrams.

use serde::{Deserialize, Serialize};

use super::{DatagramError, PAYLOAD_MAX_BYTES};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeId;

/// How many files one [`Message::Get`] asks for: what fits [`PAYLOAD_MAX_BYTES`].
pub const GET_HASHES_MAX: usize = 26;
/// How many ranges one [`Message::Offer`] lists; what has more is cut to its longest ranges.
pub const OFFER_RANGES_MAX: usize = 16;
/// How many recent askers one [`Message::Offer`] names.
pub const OFFER_ASKERS_MAX: usize = 8;

/// A body of [`super::Frame::Message`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Who has some of these?
    Get {
        /// 1 to [`GET_HASHES_MAX`].
        hashes: Vec<ContentHash>,
    },
    /// I have some of this.
    Offer(OfferSummary),
}

/// What a node has of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferSummary {
    /// Of what.
    pub hash: ContentHash,
    pub size_bytes: u64,
    /// Whether it has every byte; then `ranges` is empty.
    pub all: bool,
    /// Some of what it has, at most [`OFFER_RANGES_MAX`].
    pub ranges: Vec<ByteRange>,
    /// How busy it is, from 0 (idle) to 255 (will refuse).
    pub load: u8,
    /// Who asked for the file lately, at most [`OFFER_ASKERS_MAX`].
    pub askers: Vec<NodeId>,
}

impl Message {
    /// The bytes of a datagram's payload.
    ///
    /// # Errors
    /// [`DatagramError::TooLong`] where a list exceeds its limit.
    pub fn encode(&self) -> Result<Vec<u8>, DatagramError> {
        self.check()?;
        let bytes = postcard::to_stdvec(self).map_err(|_| DatagramError::Malformed)?;
        if bytes.len() > PAYLOAD_MAX_BYTES {
            return Err(DatagramError::TooLong { what: "message" });
        }
        Ok(bytes)
    }

    /// What a datagram's payload says.
    ///
    /// # Errors
    /// Where the bytes are not exactly one message within the limits.
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
