//! This process as its peers see it: its contact, its keys and its credentials.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;

use super::cookie::Cookies;
use super::pair::{KeyExchange, PairKey};
use super::seal::Sealer;
use crate::counters::DatagramDropCause;
use crate::vouch::Vouchers;
use p2pfs_proto::trust::TrustReader;
use p2pfs_proto::wire::canonical;
use p2pfs_proto::wire::native::udp::{
    Body, Contact, Credentials, DatagramFrame, HEADER_BYTES, HELLO_BYTES, MAC_BYTES, Proof, Salt,
    SaltTag, SignedContact, TAG_BYTES, Token,
};

/// The contact, the keys and the credentials of this process.
pub(crate) struct OwnProcess {
    pub(super) me: Contact,
    pub(super) vouchers: Vouchers,
    pub(super) exchange: KeyExchange,
    /// Credentials of this process in its present life.
    pub(super) credentials: Credentials,
    pub(super) sealer: Sealer,
    pub(super) cookies: Cookies,
}

impl OwnProcess {
    /// Creates the keys of this process. They and the salt derive from `rng`.
    pub(super) fn new(
        me: Contact,
        vouchers: Vouchers,
        trust: TrustReader,
        rng: &mut StdRng,
        now: Instant,
    ) -> Self {
        let sealer = Sealer::new(trust, rng.random());
        let exchange = KeyExchange::new(rng.random());
        Self {
            me,
            credentials: vouchers.credentials(me, sealer.salt(), *exchange.public()),
            vouchers,
            exchange,
            sealer,
            cookies: Cookies::new(rng.random(), now),
        }
    }

    /// Returns this node's present contact.
    pub(crate) fn me(&self) -> Contact {
        self.me
    }

    /// Changes this node's contact.
    pub(crate) fn set_me(&mut self, me: Contact) {
        self.me = me;
        let (salt, public) = (self.sealer.salt(), *self.exchange.public());
        self.credentials = self.vouchers.credentials(me, salt, public);
    }

    /// Returns whether a body is for this process, and not for an earlier one of this node.
    pub(super) fn is_receiver_of(&self, body: &Body) -> bool {
        body.to == tag(self.sealer.salt())
    }

    /// Returns a hello to this address, padded to the length at which it may be answered.
    pub(super) fn hello(&self, address: SocketAddr, nonce: Token) -> Body {
        let hello = |padding| Body {
            to: SaltTag::default(),
            proof: None,
            frame: DatagramFrame::Hello {
                nonce,
                who: self.me,
                exchange: *self.exchange.public(),
                reached: address,
                padding,
            },
        };
        let bare_bytes = hello(Bytes::new()).encode().map_or(0, |bytes| bytes.len());
        // One byte more for the length of the padding, which takes two bytes from 128 on.
        let around = HEADER_BYTES + MAC_BYTES + TAG_BYTES + 1;
        let short = HELLO_BYTES.saturating_sub(around + bare_bytes);
        hello(vec![0; short].into())
    }

    /// Returns the proof of this process for a peer that sent this challenge from `to`.
    pub(super) fn proof(&self, token: Token, to: SocketAddr) -> Proof {
        Proof {
            token,
            who: self.credentials,
            reached: to,
        }
    }

    /// Returns the key that this process shares with the process of these credentials, after
    /// checking them.
    pub(super) fn pair_with(
        &self,
        salt: &Salt,
        who: &Credentials,
    ) -> Result<PairKey, DatagramDropCause> {
        self.vouchers.check(salt, who)?;
        let them = &who.who.contact.node;
        if !self.sealer.trust().is_member(them) {
            return Err(DatagramDropCause::NotAMember);
        }
        let pair = self.exchange.with(&who.exchange, &self.me.node, them);
        pair.ok_or(DatagramDropCause::Forged)
    }

    /// Remembers a verified life, and returns its contact. If the peer does not know its own IP
    /// address, the one at which it was seen replaces it.
    pub(super) fn believe(&self, mut who: SignedContact, from: SocketAddr) -> Contact {
        let unknown = who.contact.address.ip().is_unspecified();
        who.contact.address = if unknown {
            SocketAddr::new(from.ip(), who.contact.address.port())
        } else {
            canonical(who.contact.address)
        };
        self.vouchers.remember(who.contact.node, who);
        who.contact
    }
}

/// Returns the tag that names the receiving process in a datagram: the start of its salt.
pub(super) fn tag(salt: &Salt) -> SaltTag {
    let mut tag = SaltTag::default();
    tag.copy_from_slice(&salt[..8]);
    tag
}
