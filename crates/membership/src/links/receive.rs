//! One received datagram: opened, checked, answered, and its sender proven.

use std::net::SocketAddr;
use std::time::Instant;

use super::pair::PairKey;
use super::process::{OwnProcess, tag};
use super::seal::SealKey;
use super::sessions::Sessions;
use super::table::LinkTable;
use super::{Arrival, Introduction, Links};
use crate::counters::DatagramDropCause;
use p2pfs_proto::wire::native::udp::{
    Body, DatagramFrame, HEADER_BYTES, HELLO_BYTES, Header, MAC_BYTES, Mac, Proof, Salt, TAG_BYTES,
};

/// An opened datagram.
pub(super) struct OpenedDatagram {
    header: Header,
    from: SocketAddr,
    length_bytes: usize,
    body: Body,
    /// The encoded body. The code in `mac` authenticates its sender.
    bytes: Vec<u8>,
    mac: Mac,
    /// The key that opened it, if no session has it yet.
    key: Option<SealKey>,
}

impl OpenedDatagram {
    /// Opens and decodes a datagram that was not seen before.
    pub(super) fn open(
        from: SocketAddr,
        datagram: &[u8],
        process: &OwnProcess,
        sessions: &Sessions,
    ) -> Result<Self, DatagramDropCause> {
        let (header, sealed) = Header::decode(datagram).map_err(|_| DatagramDropCause::Foreign)?;
        if header.salt == *process.sealer.salt() {
            return Err(DatagramDropCause::Own);
        }
        if !sessions.is_fresh(&header) {
            return Err(DatagramDropCause::Replayed);
        }
        let session = sessions.get(&header.salt);
        let known_key = session
            .map(|s| &s.key)
            .filter(|key| key.epoch == header.epoch);
        let mut key = None;
        let body = match known_key {
            Some(known) => known.open(&header, sealed),
            None => {
                let fresh = SealKey::of(process.sealer.trust(), &header);
                key.insert(fresh.ok_or(DatagramDropCause::UnknownEpoch)?)
                    .open(&header, sealed)
            }
        };
        let (bytes, mac) = body.ok_or(DatagramDropCause::BadSeal)?;
        let body = Body::decode(&bytes).map_err(|_| DatagramDropCause::Malformed)?;
        Ok(Self {
            header,
            from,
            length_bytes: datagram.len(),
            body,
            bytes,
            mac,
            key,
        })
    }

    /// Handles the datagram. Returns the proofs and frames in it.
    pub(super) fn receive(
        mut self,
        now: Instant,
        links: &mut Links,
    ) -> Result<Vec<Arrival>, DatagramDropCause> {
        let (from, salt) = (self.from, self.header.salt);
        let proven = links.table.is_at(from, &salt);
        let for_this_life = links.process.is_receiver_of(&self.body);
        match &self.body.frame {
            DatagramFrame::Hello { .. } => {
                self.answer_hello(now, links);
                Ok(Vec::new())
            }
            DatagramFrame::HelloReply { .. } => {
                self.receive_reply(now, links).map(|proof| vec![proof])
            }
            DatagramFrame::Challenge { token } if proven && for_this_life => {
                links.echo(from, &salt, *token);
                Ok(Vec::new())
            }
            DatagramFrame::Challenge { .. } => {
                // The peer at this address has restarted, or has forgotten this node.
                if links.table.link_at(from).is_some() {
                    links.greet(now, from);
                }
                Err(DatagramDropCause::Unproven)
            }
            _ if for_this_life => {
                let is_known = self.mark(&mut links.table)?;
                if is_known && proven {
                    Ok(self.deliver(now, links))
                } else {
                    self.receive_proof(now, links)
                }
            }
            _ => {
                self.challenge(now, links);
                Err(DatagramDropCause::Unproven)
            }
        }
    }

    fn is_from(&self, pair: &PairKey) -> bool {
        pair.holds(&self.header.encode(), &self.bytes, &self.mac)
    }

    /// Marks a datagram of a known session as seen, once its sender is authenticated. Returns false
    /// if the session is not known.
    fn mark(&mut self, table: &mut LinkTable) -> Result<bool, DatagramDropCause> {
        let Some(session) = table.session_mut(&self.header.salt) else {
            return Ok(false);
        };
        if !self.is_from(&session.pair) {
            return Err(DatagramDropCause::Forged);
        }
        session.window.mark(self.header.counter);
        if let Some(key) = self.key.take() {
            session.key = key;
        }
        Ok(true)
    }

    /// Returns the frame of the process that is proven at its address.
    fn deliver(self, now: Instant, links: &mut Links) -> Vec<Arrival> {
        let address = self.from;
        let Some(link) = links.table.link_at(address) else {
            return Vec::new();
        };
        link.heard = now;
        link.token = None;
        let Some((from, salt)) = links.table.speaker_at(address) else {
            return Vec::new();
        };
        match self.body.frame {
            DatagramFrame::Nothing => Vec::new(),
            frame => vec![Arrival::Frame {
                from,
                salt,
                address,
                frame,
            }],
        }
    }

    /// Handles a frame of a process that is not proven at its address. A frame that echoes this
    /// node's recent challenge proves the process, if its credentials and its code are valid. A
    /// frame without such an echo is answered with a challenge.
    fn receive_proof(
        mut self,
        now: Instant,
        links: &mut Links,
    ) -> Result<Vec<Arrival>, DatagramDropCause> {
        let (from, salt) = (self.from, self.header.salt);
        let cookies = &links.process.cookies;
        let made_at = |proof: &Proof| cookies.made_at(now, from, &salt, &proof.token);
        let proof = self.body.proof;
        let proof = proof.and_then(|proof| Some((made_at(&proof)?, proof)));
        let Some((challenged, proof)) = proof else {
            self.challenge(now, links);
            return Err(DatagramDropCause::Unproven);
        };
        if !links.limits.proofs.take(1, now) {
            return Err(DatagramDropCause::Unproven);
        }
        let pair = links.process.pair_with(&salt, &proof.who)?;
        if !self.is_from(&pair) {
            return Err(DatagramDropCause::Forged);
        }
        let who = links.process.believe(proof.who.who, from);
        links.prove(now, &self.header, from, who, (self.key.take(), pair))?;
        links.flush(from);
        let mut arrivals = vec![Arrival::Proven(Introduction {
            who,
            salt,
            address: from,
            greeted: false,
            challenged,
            reached: proof.reached,
            known: None,
            round_trip: None,
        })];
        arrivals.extend(self.deliver(now, links));
        Ok(arrivals)
    }

    fn receive_reply(
        mut self,
        now: Instant,
        links: &mut Links,
    ) -> Result<Arrival, DatagramDropCause> {
        let frame = std::mem::replace(&mut self.body.frame, DatagramFrame::Nothing);
        let DatagramFrame::HelloReply {
            nonce,
            token,
            who,
            reached,
            known,
        } = frame
        else {
            return Err(DatagramDropCause::Malformed);
        };
        let (from, salt) = (self.from, self.header.salt);
        let Some(hello) = links.hellos.get(from, &nonce) else {
            // A machine with several addresses may answer from another one than was greeted. That
            // address must answer by itself before it is used.
            if links.hellos.divert(&nonce) {
                links.greet(now, from);
            }
            return Err(DatagramDropCause::StaleReply);
        };
        let (challenged, round_trip) = (hello.sent(), hello.round_trip(now));
        let pair = links.process.pair_with(&salt, &who)?;
        if !self.is_from(&pair) {
            return Err(DatagramDropCause::Forged);
        }
        let who = links.process.believe(who.who, from);
        links.prove(now, &self.header, from, who, (self.key, pair))?;
        links.echo(from, &salt, token);
        links.flush(from);
        Ok(Arrival::Proven(Introduction {
            who,
            salt,
            address: from,
            greeted: true,
            challenged,
            reached,
            known,
            round_trip,
        }))
    }

    /// Answers a hello. The hello has no other effect. The answer is authenticated for the process
    /// that the hello claims, and for no other.
    fn answer_hello(&self, now: Instant, links: &mut Links) {
        let DatagramFrame::Hello {
            nonce,
            who,
            exchange,
            ..
        } = &self.body.frame
        else {
            return;
        };
        if !self.may_answer(now, HELLO_BYTES, links) {
            return;
        }
        let process = &links.process;
        let Some(pair) = process.exchange.with(exchange, &process.me.node, &who.node) else {
            links.counters.untrusted.forged += 1;
            return;
        };
        let (from, salt) = (self.from, &self.header.salt);
        let frame = DatagramFrame::HelloReply {
            nonce: *nonce,
            token: process.cookies.token(now, from, salt),
            who: Box::new(process.credentials),
            reached: from,
            known: process.vouchers.later(who).map(Box::new),
        };
        links.transmit(from, &unbound(salt, frame), Some(&pair));
    }

    fn challenge(&self, now: Instant, links: &mut Links) {
        let (from, salt) = (self.from, &self.header.salt);
        let token = links.process.cookies.token(now, from, salt);
        let body = unbound(salt, DatagramFrame::Challenge { token });
        let around = HEADER_BYTES + MAC_BYTES + TAG_BYTES;
        let length = body
            .encode()
            .map_or(usize::MAX, |bytes| bytes.len() + around);
        if self.may_answer(now, length, links) {
            links.transmit(from, &body, None);
        }
    }

    /// Returns whether an answer of this length may be sent: it is not longer than this datagram,
    /// and the limit per second is not reached.
    fn may_answer(&self, now: Instant, length_bytes: usize, links: &mut Links) -> bool {
        let may = length_bytes <= self.length_bytes && links.limits.answers.take(1, now);
        if !may {
            links.counters.excess.unanswered += 1;
        }
        may
    }
}

fn unbound(salt: &Salt, frame: DatagramFrame) -> Body {
    Body {
        to: tag(salt),
        proof: None,
        frame,
    }
}
