//! Greetings: the first messages of both sides of a connection.

use bytes::Bytes;

use super::parts::split;
use super::{Frame, FrameKind, Lane};
use crate::wire::WireError;

/// The first frame of each side, before any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The dialler proves its membership. The frame does not name the epoch, so a node without the
    /// secret cannot distinguish the proof from noise.
    Prove {
        /// Purpose of the connection.
        lane: Lane,
        /// The proof of `trust::Channel::membership_proof`.
        proof: [u8; 32],
        /// Certificates for a member that may not know the dialler yet, at most
        /// [`CHAIN_MAX_BYTES`](super::CHAIN_MAX_BYTES).
        chain: Bytes,
    },
    /// The dialler proves that it has an invitation.
    Enrol {
        /// The proof of `trust::Channel::enrolment_proof`.
        proof: [u8; 32],
        /// Name of the dialler, a `NodeName`.
        name: Bytes,
    },
    /// The acceptor proves its membership too.
    Proven {
        /// A proof with the secret of the epoch that the dialler's proof used.
        proof: [u8; 32],
        /// Certificates for a dialler that may not know the acceptor yet.
        chain: Bytes,
    },
    /// The acceptor admits the dialler.
    Enrolled {
        /// The cluster's newest secret.
        secret: [u8; 32],
        /// Proof that the acceptor knows the invitation.
        proof: [u8; 32],
        /// Certificates from the founding to the dialler's own; empty if the cluster has no ledger.
        chain: Bytes,
    },
    /// The acceptor tells a former member why its membership ended, and closes the connection.
    PutOut {
        /// Encoded `trust::SignedStatement`s: the one by which the dialler is out, and the
        /// certificates of its issuer.
        word: Bytes,
    },
}

impl Greeting {
    /// Encodes the greeting as a frame. Greetings have the request id 0.
    pub fn encode(&self) -> Frame {
        let (kind, body) = match self {
            Self::Prove { lane, proof, chain } => {
                let lane = matches!(lane, Lane::Bulk) as u8;
                (FrameKind::Prove, [&[lane][..], proof, chain].concat())
            }
            Self::Enrol { proof, name } => (FrameKind::Enrol, [&proof[..], name].concat()),
            Self::Proven { proof, chain } => (FrameKind::Proven, [&proof[..], chain].concat()),
            Self::Enrolled {
                secret,
                proof,
                chain,
            } => (FrameKind::Enrolled, [&secret[..], proof, chain].concat()),
            Self::PutOut { word } => (FrameKind::PutOut, word.to_vec()),
        };
        Frame::new(0, kind, Bytes::from(body)).expect("a greeting is within its limit")
    }

    /// Decodes the greeting of a frame of `kind`.
    ///
    /// # Errors
    /// [`WireError`] if the frame is not a valid greeting.
    pub fn decode(kind: FrameKind, body: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "a greeting";
        match kind {
            FrameKind::Prove => {
                let (lane, rest) = body
                    .split_first()
                    .ok_or(WireError::Malformed { what: WHAT })?;
                let lane = match lane {
                    0 => Lane::Urgent,
                    1 => Lane::Bulk,
                    _ => return Err(WireError::Malformed { what: WHAT }),
                };
                let (proof, chain) = split(rest, WHAT)?;
                Ok(Self::Prove { lane, proof, chain })
            }
            FrameKind::Enrol => {
                let (proof, name) = split(body, WHAT)?;
                Ok(Self::Enrol { proof, name })
            }
            FrameKind::Proven => {
                let (proof, chain) = split(body, WHAT)?;
                Ok(Self::Proven { proof, chain })
            }
            FrameKind::Enrolled => {
                let (secret, rest) = split(body, WHAT)?;
                let (proof, chain) = split(&rest, WHAT)?;
                Ok(Self::Enrolled {
                    secret,
                    proof,
                    chain,
                })
            }
            FrameKind::PutOut => Ok(Self::PutOut {
                word: Bytes::copy_from_slice(body),
            }),
            _ => Err(WireError::Malformed { what: WHAT }),
        }
    }
}
