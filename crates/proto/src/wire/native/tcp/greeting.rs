//! The greeting: what each side says before anything else.

use bytes::Bytes;

use super::parts::split;
use super::{Frame, Kind, Lane};
use crate::wire::WireError;

/// The first frame of each side, before any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The dialler proves that it is a member. It names no epoch: who does not have the secret
    /// cannot tell the proof from noise.
    Prove {
        /// What the connection will carry.
        lane: Lane,
        /// See `trust::Channel::membership_proof`.
        proof: [u8; 32],
        /// Certificates, for a member that may not have heard of us; at most
        /// [`CHAIN_MAX_BYTES`](super::CHAIN_MAX_BYTES).
        chain: Bytes,
    },
    /// The dialler proves that it holds an invitation.
    Enrol {
        /// See `trust::Channel::enrolment_proof`.
        proof: [u8; 32],
        /// What the dialler calls itself: a `NodeName`.
        name: Bytes,
    },
    /// The acceptor proves that it is a member too.
    Proven {
        /// Over the same epoch as the dialler's.
        proof: [u8; 32],
        /// As the dialler's.
        chain: Bytes,
    },
    /// The acceptor admits the dialler.
    Enrolled {
        /// The epoch's secret.
        secret: [u8; 32],
        /// Proof that the acceptor knows the invitation.
        proof: [u8; 32],
        /// The certificates from the founding to the dialler's.
        chain: Bytes,
    },
    /// The acceptor tells one that was a member why it is none any more, and ends the connection.
    PutOut {
        /// The signed statement that put it out: `trust::SignedStatement`.
        word: Bytes,
    },
}

impl Greeting {
    /// The frame of this greeting; greetings have the request id 0.
    pub fn encode(&self) -> Frame {
        let (kind, body) = match self {
            Self::Prove { lane, proof, chain } => {
                let lane = matches!(lane, Lane::Bulk) as u8;
                (Kind::Prove, [&[lane][..], proof, chain].concat())
            }
            Self::Enrol { proof, name } => (Kind::Enrol, [&proof[..], name].concat()),
            Self::Proven { proof, chain } => (Kind::Proven, [&proof[..], chain].concat()),
            Self::Enrolled {
                secret,
                proof,
                chain,
            } => (Kind::Enrolled, [&secret[..], proof, chain].concat()),
            Self::PutOut { word } => (Kind::PutOut, word.to_vec()),
        };
        Frame::new(0, kind, Bytes::from(body)).expect("a greeting is within its limit")
    }

    /// The greeting that a frame of `kind` carries.
    ///
    /// # Errors
    /// [`WireError`] where it carries none.
    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, WireError> {
        const WHAT: &str = "a greeting";
        match kind {
            Kind::Prove => {
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
            Kind::Enrol => {
                let (proof, name) = split(body, WHAT)?;
                Ok(Self::Enrol { proof, name })
            }
            Kind::Proven => {
                let (proof, chain) = split(body, WHAT)?;
                Ok(Self::Proven { proof, chain })
            }
            Kind::Enrolled => {
                let (secret, rest) = split(body, WHAT)?;
                let (proof, chain) = split(&rest, WHAT)?;
                Ok(Self::Enrolled {
                    secret,
                    proof,
                    chain,
                })
            }
            Kind::PutOut => Ok(Self::PutOut {
                word: Bytes::copy_from_slice(body),
            }),
            _ => Err(WireError::Malformed { what: WHAT }),
        }
    }
}
