//! The receiving side of the links: open, check, answer, prove.

use super::*;

/// An opened datagram.
struct Opened {
    header: Header,
    from: SocketAddr,
    length_bytes: usize,
    body: Body,
    /// The key that opened it, where no session has it yet.
    key: Option<SealKey>,
}

impl Links {
    /// Takes a datagram in. `known` gives the highest generation of a node that was heard of.
    pub(in crate::cluster) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        known: impl Fn(&NodeId) -> Option<Generation>,
    ) -> Vec<Arrival> {
        let from = canonical(from);
        let outcome = self
            .open(from, datagram)
            .and_then(|opened| self.receive(now, opened, known));
        match outcome {
            Ok(arrivals) => {
                self.counters.accepted += 1;
                arrivals
            }
            Err(dropped) => {
                self.counters.count(dropped);
                Vec::new()
            }
        }
    }

    fn open(&mut self, from: SocketAddr, datagram: &[u8]) -> Result<Opened, Dropped> {
        let (header, sealed) = Header::decode(datagram).map_err(|_| Dropped::Foreign)?;
        if header.salt == *self.sealer.salt() {
            return Err(Dropped::Own);
        }
        let session = self.sessions.get_mut(&header.salt);
        if session
            .as_ref()
            .is_some_and(|s| !s.window.is_fresh(header.counter))
        {
            return Err(Dropped::Replayed);
        }
        let known_key = session
            .as_ref()
            .map(|s| &s.key)
            .filter(|key| key.epoch == header.epoch);
        let mut key = None;
        let body = match known_key {
            Some(known) => known.open(&header, sealed),
            None => {
                let fresh = SealKey::of(self.sealer.keyring(), &header);
                key.insert(fresh.ok_or(Dropped::UnknownEpoch)?)
                    .open(&header, sealed)
            }
        };
        let body = body.ok_or(Dropped::BadSeal)?;
        if let Some(session) = session {
            session.window.mark(header.counter);
            if let Some(key) = key.take() {
                session.key = key;
            }
        }
        let body = Body::decode(&body).map_err(|_| Dropped::Malformed)?;
        Ok(Opened {
            header,
            from,
            length_bytes: datagram.len(),
            body,
            key,
        })
    }

    fn receive(
        &mut self,
        now: Instant,
        opened: Opened,
        known: impl Fn(&NodeId) -> Option<Generation>,
    ) -> Result<Vec<Arrival>, Dropped> {
        let Opened { header, from, .. } = opened;
        let proven = self
            .links
            .get(&from)
            .is_some_and(|link| link.salt == Some(header.salt));
        let for_this_life = opened.body.to == tag(self.sealer.salt());
        match &opened.body.frame {
            Frame::Hello { nonce, who, .. } => {
                let (nonce, known) = (*nonce, known(&who.node));
                self.answer_hello(now, &opened, nonce, known);
                Ok(Vec::new())
            }
            Frame::HelloReply { .. } => self.receive_reply(now, opened).map(|proof| vec![proof]),
            Frame::Challenge { token } if proven && for_this_life => {
                self.echo(from, &header.salt, *token);
                Ok(Vec::new())
            }
            Frame::Challenge { .. } => {
                // the peer at this address has begun a new life
                if self.links.contains_key(&from) {
                    self.greet(now, from);
                }
                Err(Dropped::Unproven)
            }
            _ if proven && for_this_life => Ok(self.deliver(now, from, opened.body.frame)),
            _ if for_this_life => self.receive_proof(now, opened),
            _ => {
                self.challenge(now, &opened);
                Err(Dropped::Unproven)
            }
        }
    }

    fn deliver(&mut self, now: Instant, address: SocketAddr, frame: Frame) -> Vec<Arrival> {
        let Some(link) = self.links.get_mut(&address) else {
            return Vec::new();
        };
        link.heard = now;
        link.token = None;
        let Some(from) = self.proven(address) else {
            return Vec::new();
        };
        match frame {
            Frame::Nothing => Vec::new(),
            frame => vec![Arrival::Frame {
                from,
                address,
                frame,
            }],
        }
    }

    /// A first frame from a salt that echoes our challenge.
    fn receive_proof(&mut self, now: Instant, opened: Opened) -> Result<Vec<Arrival>, Dropped> {
        let (from, salt) = (opened.from, opened.header.salt);
        let proof = opened.body.proof;
        let Some(proof) = proof.filter(|p| self.cookies.accepts(now, from, &salt, &p.token)) else {
            self.challenge(now, &opened);
            return Err(Dropped::Unproven);
        };
        let who = seen_at(proof.who, from);
        self.prove(now, &opened.header, from, who, opened.key)?;
        self.flush(from);
        let mut arrivals = vec![Arrival::Proven(Introduction {
            who,
            address: from,
            greeted: false,
            reached: proof.reached,
            known: None,
            round_trip: None,
        })];
        arrivals.extend(self.deliver(now, from, opened.body.frame));
        Ok(arrivals)
    }

    fn receive_reply(&mut self, now: Instant, opened: Opened) -> Result<Arrival, Dropped> {
        let Frame::HelloReply {
            nonce,
            token,
            who,
            reached,
            known,
        } = opened.body.frame
        else {
            return Err(Dropped::Malformed);
        };
        let from = opened.from;
        let hello = self.links.get(&from).and_then(|link| link.hello.as_ref());
        let Some(hello) = hello.filter(|hello| hello.nonce == nonce) else {
            return Err(Dropped::StaleReply);
        };
        let once = hello.repeated == 0;
        let round_trip = once.then(|| now.saturating_duration_since(hello.sent));
        let who = seen_at(who, from);
        self.prove(now, &opened.header, from, who, opened.key)?;
        self.echo(from, &opened.header.salt, token);
        self.flush(from);
        let greeted = true;
        Ok(Arrival::Proven(Introduction {
            who,
            address: from,
            greeted,
            reached,
            known,
            round_trip,
        }))
    }

    /// From now on `who` is at this address, as the life of this salt.
    fn prove(
        &mut self,
        now: Instant,
        header: &Header,
        address: SocketAddr,
        who: Contact,
        key: Option<SealKey>,
    ) -> Result<(), Dropped> {
        match (self.sessions.get_mut(&header.salt), key) {
            (Some(session), _) if session.who.node != who.node => return Err(Dropped::TwoFaced),
            (Some(session), _) => session.who = who,
            (None, None) => return Err(Dropped::Unproven),
            (None, Some(key)) => {
                let mut window = ReplayWindow::new();
                window.mark(header.counter);
                let messages = TokenBucket::per_second(MESSAGES_PER_S, MESSAGES_PER_S, now);
                let session = Session {
                    who,
                    key,
                    window,
                    messages,
                    links: 0,
                };
                self.sessions.insert(header.salt, session);
            }
        }
        let link = self.link(now, address);
        link.heard = now;
        let ended = link.hello.take().map(|hello| (hello.next, address));
        let before = link.salt.replace(header.salt);
        if before != Some(header.salt) {
            link.token = None;
            if let Some(session) = self.sessions.get_mut(&header.salt) {
                session.links += 1;
            }
            self.release(before);
        }
        ended.into_iter().for_each(|hello| {
            self.hellos.remove(&hello);
        });
        Ok(())
    }

    /// Takes up a challenge: the proof goes at once, and along with all that follows until the
    /// peer has shown that it accepted one.
    fn echo(&mut self, address: SocketAddr, salt: &Salt, token: Token) {
        let Some(link) = self.links.get_mut(&address) else {
            return;
        };
        link.token = Some(token);
        if link.waiting.is_empty() {
            self.transmit_bound(address, salt, Some(token), Frame::Nothing);
        }
    }

    fn flush(&mut self, address: SocketAddr) {
        let Some(link) = self.links.get_mut(&address) else {
            return;
        };
        let Some(salt) = link.salt else { return };
        let token = link.token;
        for frame in std::mem::take(&mut link.waiting) {
            self.transmit_bound(address, &salt, token, frame);
        }
    }

    fn answer_hello(
        &mut self,
        now: Instant,
        opened: &Opened,
        nonce: Token,
        known: Option<Generation>,
    ) {
        let (from, salt) = (opened.from, &opened.header.salt);
        let token = self.cookies.token(now, from, salt);
        let who = self.me;
        let frame = Frame::HelloReply {
            nonce,
            token,
            who,
            reached: from,
            known,
        };
        self.answer_unproven(now, opened, frame);
    }

    fn challenge(&mut self, now: Instant, opened: &Opened) {
        let token = self.cookies.token(now, opened.from, &opened.header.salt);
        self.answer_unproven(now, opened, Frame::Challenge { token });
    }

    /// One answer, no longer than what came.
    fn answer_unproven(&mut self, now: Instant, opened: &Opened, frame: Frame) {
        let body = Body {
            to: tag(&opened.header.salt),
            proof: None,
            frame,
        };
        let length = body
            .encode()
            .map_or(usize::MAX, |b| b.len() + HEADER_BYTES + TAG_BYTES);
        if length > opened.length_bytes || !self.answers.take(1, now) {
            self.counters.unanswered += 1;
            return;
        }
        self.transmit(opened.from, &body);
    }
}

/// A peer that does not know its own address is at the one that it was seen at.
fn seen_at(who: Contact, from: SocketAddr) -> Contact {
    let unknown = who.address.ip().is_unspecified();
    Contact {
        address: if unknown {
            from
        } else {
            canonical(who.address)
        },
        ..who
    }
}
