//! The receiving side of the links: open, check, answer, prove.

use super::*;

/// An opened datagram.
struct OpenedDatagram {
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
    fn is_from(&self, pair: &PairKey) -> bool {
        pair.holds(&self.header.encode(), &self.bytes, &self.mac)
    }
}

impl Links {
    /// Handles a datagram. Returns the proofs and frames in it.
    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Vec<Arrival> {
        let from = canonical(from);
        let outcome = self
            .open(from, datagram)
            .and_then(|opened| self.receive(now, opened));
        match outcome {
            Ok(arrivals) => {
                self.counters.accepted += 1;
                arrivals
            }
            Err(dropped) => {
                if matches!(
                    dropped,
                    DatagramDropCause::UnknownEpoch | DatagramDropCause::NotAMember
                ) {
                    self.queue_stranger(from);
                }
                self.counters.count(dropped);
                Vec::new()
            }
        }
    }

    fn open(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Result<OpenedDatagram, DatagramDropCause> {
        let (header, sealed) = Header::decode(datagram).map_err(|_| DatagramDropCause::Foreign)?;
        if header.salt == *self.secrets.sealer.salt() {
            return Err(DatagramDropCause::Own);
        }
        let session = self.proven.sessions.get(&header.salt);
        let is_fresh = match session {
            Some(session) => session.window.is_fresh(header.counter),
            None => self.ended.is_fresh(&header.salt, header.counter),
        };
        if !is_fresh {
            return Err(DatagramDropCause::Replayed);
        }
        let known_key = session
            .map(|s| &s.key)
            .filter(|key| key.epoch == header.epoch);
        let mut key = None;
        let body = match known_key {
            Some(known) => known.open(&header, sealed),
            None => {
                let fresh = SealKey::of(self.secrets.sealer.keyring(), &header);
                key.insert(fresh.ok_or(DatagramDropCause::UnknownEpoch)?)
                    .open(&header, sealed)
            }
        };
        let (bytes, mac) = body.ok_or(DatagramDropCause::BadSeal)?;
        let body = Body::decode(&bytes).map_err(|_| DatagramDropCause::Malformed)?;
        Ok(OpenedDatagram {
            header,
            from,
            length_bytes: datagram.len(),
            body,
            bytes,
            mac,
            key,
        })
    }

    fn receive(
        &mut self,
        now: Instant,
        mut opened: OpenedDatagram,
    ) -> Result<Vec<Arrival>, DatagramDropCause> {
        let (header, from) = (opened.header, opened.from);
        let proven = self
            .links
            .get(&from)
            .is_some_and(|link| link.salt == Some(header.salt));
        let for_this_life = opened.body.to == tag(self.secrets.sealer.salt());
        match &opened.body.frame {
            Frame::Hello { .. } => {
                self.answer_hello(now, &opened);
                Ok(Vec::new())
            }
            Frame::HelloReply { .. } => self.receive_reply(now, opened).map(|proof| vec![proof]),
            Frame::Challenge { token } if proven && for_this_life => {
                self.echo(from, &header.salt, *token);
                Ok(Vec::new())
            }
            Frame::Challenge { .. } => {
                // The peer at this address has restarted, or has forgotten this node.
                if self.links.contains_key(&from) {
                    self.greet(now, from);
                }
                Err(DatagramDropCause::Unproven)
            }
            _ if for_this_life => {
                let is_known = self.mark(&mut opened)?;
                if is_known && proven {
                    Ok(self.deliver(now, from, opened.body.frame))
                } else {
                    self.receive_proof(now, opened)
                }
            }
            _ => {
                self.challenge(now, &opened);
                Err(DatagramDropCause::Unproven)
            }
        }
    }

    /// Marks a datagram of a known session as seen, once its sender is authenticated. Returns false
    /// if the session is not known.
    fn mark(&mut self, opened: &mut OpenedDatagram) -> Result<bool, DatagramDropCause> {
        let Some(session) = self.proven.sessions.get_mut(&opened.header.salt) else {
            return Ok(false);
        };
        if !opened.is_from(&session.pair) {
            return Err(DatagramDropCause::Forged);
        }
        session.window.mark(opened.header.counter);
        if let Some(key) = opened.key.take() {
            session.key = key;
        }
        Ok(true)
    }

    /// Returns the key that this process shares with the process of these credentials, after
    /// checking them.
    fn pair_with(&self, salt: &Salt, who: &Credentials) -> Result<PairKey, DatagramDropCause> {
        self.secrets.vouchers.check(salt, who)?;
        if !self
            .secrets
            .sealer
            .keyring()
            .is_member(&who.who.contact.node)
        {
            return Err(DatagramDropCause::NotAMember);
        }
        let (me, them) = (&self.me.node, &who.who.contact.node);
        let pair = self.secrets.exchange.with(&who.exchange, me, them);
        pair.ok_or(DatagramDropCause::Forged)
    }

    fn deliver(&mut self, now: Instant, address: SocketAddr, frame: Frame) -> Vec<Arrival> {
        let Some(link) = self.links.get_mut(&address) else {
            return Vec::new();
        };
        link.heard = now;
        link.token = None;
        let Some((from, salt)) = self.speaker_at(address) else {
            return Vec::new();
        };
        match frame {
            Frame::Nothing => Vec::new(),
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
        &mut self,
        now: Instant,
        opened: OpenedDatagram,
    ) -> Result<Vec<Arrival>, DatagramDropCause> {
        let (from, salt) = (opened.from, opened.header.salt);
        let proof = opened.body.proof;
        let made_at = |proof: &Proof| self.secrets.cookies.made_at(now, from, &salt, &proof.token);
        let proof = proof.and_then(|proof| Some((made_at(&proof)?, proof)));
        let Some((challenged, proof)) = proof else {
            self.challenge(now, &opened);
            return Err(DatagramDropCause::Unproven);
        };
        if !self.limits.proofs.take(1, now) {
            return Err(DatagramDropCause::Unproven);
        }
        let pair = self.pair_with(&salt, &proof.who)?;
        if !opened.is_from(&pair) {
            return Err(DatagramDropCause::Forged);
        }
        let who = self.believe(proof.who.who, from);
        self.prove(now, &opened.header, from, who, (opened.key, pair))?;
        self.flush(from);
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
        arrivals.extend(self.deliver(now, from, opened.body.frame));
        Ok(arrivals)
    }

    fn receive_reply(
        &mut self,
        now: Instant,
        mut opened: OpenedDatagram,
    ) -> Result<Arrival, DatagramDropCause> {
        let frame = std::mem::replace(&mut opened.body.frame, Frame::Nothing);
        let Frame::HelloReply {
            nonce,
            token,
            who,
            reached,
            known,
        } = frame
        else {
            return Err(DatagramDropCause::Malformed);
        };
        let (from, salt) = (opened.from, opened.header.salt);
        let hello = self.links.get(&from).and_then(|link| link.hello.as_ref());
        let Some(hello) = hello.filter(|hello| hello.nonce == nonce) else {
            // A machine with several addresses may answer from another one than was greeted. That
            // address must answer by itself before it is used.
            if self.divert(&nonce) {
                self.greet(now, from);
            }
            return Err(DatagramDropCause::StaleReply);
        };
        let (once, challenged) = (hello.repeated == 0, hello.sent);
        let round_trip = once.then(|| now.saturating_duration_since(hello.sent));
        let pair = self.pair_with(&salt, &who)?;
        if !opened.is_from(&pair) {
            return Err(DatagramDropCause::Forged);
        }
        let who = self.believe(who.who, from);
        self.prove(now, &opened.header, from, who, (opened.key, pair))?;
        self.echo(from, &salt, token);
        self.flush(from);
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

    /// Returns true for the first call with the nonce of a waiting hello, otherwise false. Without
    /// this limit, answers with forged senders would make this node greet many addresses.
    fn divert(&mut self, nonce: &Token) -> bool {
        for (_, address) in &self.hellos {
            let link = self.links.get_mut(address);
            let hello = link.and_then(|link| link.hello.as_mut());
            if let Some(hello) = hello.filter(|hello| hello.nonce == *nonce) {
                return !std::mem::replace(&mut hello.is_diverted, true);
            }
        }
        false
    }

    /// Remembers a verified life, and returns its contact. If the peer does not know its own IP
    /// address, the one at which it was seen replaces it.
    fn believe(&self, mut who: SignedContact, from: SocketAddr) -> Contact {
        let unknown = who.contact.address.ip().is_unspecified();
        who.contact.address = if unknown {
            SocketAddr::new(from.ip(), who.contact.address.port())
        } else {
            canonical(who.contact.address)
        };
        self.secrets.vouchers.remember(who.contact.node, who);
        who.contact
    }

    /// Records that `who` is proven at this address, as the process of the header's salt.
    fn prove(
        &mut self,
        now: Instant,
        header: &Header,
        address: SocketAddr,
        who: Contact,
        (key, pair): (Option<SealKey>, PairKey),
    ) -> Result<(), DatagramDropCause> {
        match (self.proven.sessions.get_mut(&header.salt), key) {
            (Some(session), _) if session.who.node != who.node => {
                return Err(DatagramDropCause::TwoFaced);
            }
            (Some(session), _) => session.who = who,
            (None, None) => return Err(DatagramDropCause::Unproven),
            (None, Some(key)) => {
                let mut window = self.ended.resume(&header.salt);
                window.mark(header.counter);
                let messages = TokenBucket::per_second(MESSAGES_PER_S, MESSAGES_PER_S, now);
                let session = LinkSession {
                    who,
                    key,
                    pair,
                    window,
                    messages,
                    links: 0,
                };
                self.proven.sessions.insert(header.salt, session);
            }
        }
        // A full table drops its oldest link for this one. If that is the only other link of the
        // session, the session must not end.
        self.count_link(&header.salt);
        let link = self.link(now, address);
        link.heard = now;
        let ended = link.hello.take().map(|hello| (hello.next, address));
        let before = link.salt.replace(header.salt);
        if before == Some(header.salt) {
            self.uncount_link(header.salt);
        } else {
            link.token = None;
            self.release(address, before);
            self.add_route(who.node, address);
        }
        ended.into_iter().for_each(|hello| {
            self.hellos.remove(&hello);
        });
        Ok(())
    }

    /// Answers a challenge. The proof goes with all frames until the peer has shown that it
    /// accepted one. If no frame waits, it goes at once with an empty frame.
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
        let token = link.token;
        let waiting = std::mem::take(&mut link.waiting);
        let Some((who, salt)) = self.speaker_at(address) else {
            return;
        };
        for (node, frame) in waiting {
            if node.is_none_or(|node| node == who.node) {
                self.transmit_bound(address, &salt, token, frame);
            } else {
                self.counters.excess.never_proven += 1;
            }
        }
    }

    /// Answers a hello. The hello has no other effect. The answer is authenticated for the process
    /// that the hello claims, and for no other.
    fn answer_hello(&mut self, now: Instant, opened: &OpenedDatagram) {
        let Frame::Hello {
            nonce,
            who,
            exchange,
            ..
        } = &opened.body.frame
        else {
            return;
        };
        if !self.may_answer(now, opened, HELLO_BYTES) {
            return;
        }
        let Some(pair) = self
            .secrets
            .exchange
            .with(exchange, &self.me.node, &who.node)
        else {
            self.counters.untrusted.forged += 1;
            return;
        };
        let (from, salt) = (opened.from, &opened.header.salt);
        let frame = Frame::HelloReply {
            nonce: *nonce,
            token: self.secrets.cookies.token(now, from, salt),
            who: Box::new(self.secrets.credentials),
            reached: from,
            known: self.secrets.vouchers.later(who).map(Box::new),
        };
        self.transmit(from, &unbound(salt, frame), Some(&pair));
    }

    fn challenge(&mut self, now: Instant, opened: &OpenedDatagram) {
        let token = self
            .secrets
            .cookies
            .token(now, opened.from, &opened.header.salt);
        let body = unbound(&opened.header.salt, Frame::Challenge { token });
        let around = HEADER_BYTES + MAC_BYTES + TAG_BYTES;
        let length = body
            .encode()
            .map_or(usize::MAX, |bytes| bytes.len() + around);
        if self.may_answer(now, opened, length) {
            self.transmit(opened.from, &body, None);
        }
    }

    /// Returns whether an answer of this length may be sent: it is not longer than the received
    /// datagram, and the limit per second is not reached.
    fn may_answer(&mut self, now: Instant, opened: &OpenedDatagram, length_bytes: usize) -> bool {
        let may = length_bytes <= opened.length_bytes && self.limits.answers.take(1, now);
        if !may {
            self.counters.excess.unanswered += 1;
        }
        may
    }
}

fn unbound(salt: &Salt, frame: Frame) -> Body {
    Body {
        to: tag(salt),
        proof: None,
        frame,
    }
}
