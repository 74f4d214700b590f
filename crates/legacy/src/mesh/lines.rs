//! The effect of each line from a peer.

use std::time::Instant;

use bytes::Bytes;

use super::{ConnId, Line, MeshEvent, MeshMachine, MeshOffence, Stage, Who};
use crate::wire::discovery::MemberName;
use crate::wire::mesh::PONG;

impl MeshMachine {
    /// Processes a line other than the first.
    pub fn line(&mut self, now: Instant, conn: ConnId, line: Line) {
        let Some(made) = self.conns.get_mut(&conn) else {
            return;
        };
        if !made.lines.take(1, now) {
            return self.offended_by(now, conn, MeshOffence::Flood);
        }
        let (stage, who) = (made.stage, made.who());
        match stage {
            Stage::Listen => {
                // a line other than `LISTEN` is ignored here, as in the original programs
                if let Line::Listen { port, .. } = line {
                    self.set_listen(conn, port);
                }
                self.establish_accepted(now, conn);
            }
            Stage::Up => self.process_line(now, conn, who, line),
            Stage::Hello | Stage::Reply => {}
        }
    }

    /// Processes a payload that is not part of a file; `bytes` is `None` if the payload is too long
    /// to be passed on. A payload counts as a line in [`LINES_PER_S`](super::LINES_PER_S).
    pub fn binary(&mut self, now: Instant, conn: ConnId, length_bytes: u64, bytes: Option<Bytes>) {
        let Some(made) = self.conns.get_mut(&conn) else {
            return;
        };
        if !made.lines.take(1, now) {
            return self.offended_by(now, conn, MeshOffence::Flood);
        }
        if made.stage == Stage::Up {
            let who = made.who();
            self.alive(now, conn);
            self.push_event(MeshEvent::Binary(who, length_bytes, bytes));
        }
    }

    fn process_line(&mut self, now: Instant, conn: ConnId, who: Who, line: Line) {
        self.alive(now, conn);
        match line {
            Line::Ping => self.send(conn, PONG.to_vec()),
            Line::Pong => self.pong(now, &who.id),
            Line::RequestPeers => self.send_peer_list(conn),
            Line::Peers {
                addresses, over, ..
            } => {
                if over > 0 {
                    self.blame(now, conn, MeshOffence::ManyAddresses);
                }
                self.learn(now, who, addresses);
            }
            Line::Listen { text, .. } | Line::Chat(text) => {
                if !text.is_empty() {
                    self.push_event(MeshEvent::Chat(who, text));
                }
            }
        }
    }

    fn learn(&mut self, now: Instant, who: Who, addresses: Vec<MemberName>) {
        let mut count = 0;
        for address in addresses {
            let address = super::known::plain(address);
            if let MemberName::Address(at) = &address {
                // a loopback address of another machine cannot be dialled from here
                let is_elsewhere = at.ip().is_loopback() && !who.address.ip().is_loopback();
                if (self.is_own)(*at) || is_elsewhere {
                    continue;
                }
            }
            if self.addresses.learn(address, Some(&who.id), now) {
                count += 1;
            }
        }
        if count > 0 {
            self.push_event(MeshEvent::Learned(who, count));
            self.dial_soon(now);
        }
    }
}
