//! Requests between nodes: sent, answered, cancelled, and given up without an answer.

use std::net::SocketAddr;
use std::time::Duration;

use p2pfs_fetch::plan;
use p2pfs_proto::wire::native::tcp::{Frame, FrameHeader, Phase, Request, Response};
use p2pfs_types::id::NodeId;

use super::{Death, Question, World};
use crate::nodes::network::{Parcel, Payload};
use crate::nodes::running::{Node, Purpose, Wish};

/// Time after which a peer without any answer is given up, as in `net::peer`.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// Time after which a request to a living peer is given up.
const UNANSWERED_AFTER: Duration = Duration::from_secs(30);

impl World {
    pub(super) fn answer(&mut self, index: usize, from: SocketAddr, id: u64, frame: &Frame) {
        let Some(question) = self.questions.get(&id) else {
            return;
        };
        let (asker, node) = (&self.nodes[question.asker], &self.nodes[index]);
        let (asker_id, asker_secret) = (asker.id, asker.secret);
        let to = node.address;
        // TLS ensures this in production: only the requested node answers, and only to a member.
        let is_proven = node.id == question.asked.0
            && node.secret == asker_secret
            && belongs(asker, node.id)
            && belongs(node, asker.id);
        if node.running.is_none() || !is_proven {
            let payload = Payload::Reset(id);
            let (from, to) = (to, from);
            return self.network.send(self.now, Parcel { from, to, payload });
        }
        let header = FrameHeader::decode(&frame.header, Phase::Requests);
        let kind = header.expect("the harness sends true frames").kind;
        let request = Request::decode(kind, frame.body.clone()).expect("a true request");
        let node = &mut self.nodes[index];
        if let Some(response) = node.answer(self.now, asker_id, &request, &self.library) {
            let frame = response.encode(id as u32).expect("within the limits");
            let payload = Payload::Answer(id, frame);
            let (from, to) = (to, from);
            self.network.send(self.now, Parcel { from, to, payload });
        }
        self.settle(index);
    }

    /// Ends a request, with or without an answer.
    pub(super) fn conclude(&mut self, id: u64, answer: Option<Response>) {
        let Some(question) = self.questions.remove(&id) else {
            return;
        };
        self.give_ups.remove(&(question.give_up, id));
        let now = self.now;
        let node = &mut self.nodes[question.asker];
        let same_life = node.lives == question.life;
        let Some(running) = node.running.as_mut().filter(|_| same_life) else {
            return;
        };
        match question.purpose {
            Purpose::Machine(id) => running.machine.handle_response(now, id, answer),
            Purpose::Range(request) => node.take_range(now, request, answer),
            Purpose::Holdings(hash) => node.take_holdings(now, question.asked, hash, answer),
        }
        self.settle(question.asker);
    }

    /// Loses a message. The requester gives up soon.
    pub(super) fn fall_silent(&mut self, payload: &Payload) {
        let (Payload::Question(id, _) | Payload::Answer(id, _)) = payload else {
            return;
        };
        self.hasten(*id);
    }

    fn hasten(&mut self, id: u64) {
        let soon = self.now + SILENT_AFTER;
        if let Some(question) = self.questions.get_mut(&id)
            && question.give_up > soon
        {
            self.give_ups.remove(&(question.give_up, id));
            question.give_up = soon;
            self.give_ups.insert((soon, id));
        }
    }

    pub(super) fn break_streams(&mut self, index: usize, death: Death) {
        let address = self.nodes[index].address;
        let to_it = self.questions.iter().filter(|(_, q)| q.asked.1 == address);
        let ids: Vec<(u64, usize)> = to_it.map(|(id, q)| (*id, q.asker)).collect();
        for (id, asker) in ids {
            if death == Death::Power {
                self.hasten(id);
                continue;
            }
            let to = self.nodes[asker].address;
            let payload = Payload::Reset(id);
            let parcel = Parcel {
                from: address,
                to,
                payload,
            };
            self.network.send(self.now, parcel);
        }
    }

    /// Cancels a request whose answer is no longer needed.
    pub(super) fn take_back(&mut self, index: usize, request: plan::RequestId) {
        let is_it = |question: &Question| {
            let of_life = question.asker == index && question.life == self.nodes[index].lives;
            of_life && matches!(question.purpose, Purpose::Range(it) if it.id == request)
        };
        let found = self.questions.iter().find(|(_, question)| is_it(question));
        if let Some((id, give_up)) = found.map(|(id, question)| (*id, question.give_up)) {
            self.questions.remove(&id);
            self.give_ups.remove(&(give_up, id));
        }
    }

    pub(super) fn ask(&mut self, index: usize, wish: Wish) {
        let id = self.next_question;
        self.next_question += 1;
        let frame = wish.request.encode(id as u32).expect("within the limits");
        let give_up = self.now + UNANSWERED_AFTER;
        self.questions.insert(
            id,
            Question {
                asker: index,
                life: self.nodes[index].lives,
                asked: (wish.node, wish.address),
                purpose: wish.purpose,
                give_up,
            },
        );
        self.give_ups.insert((give_up, id));
        let parcel = Parcel {
            from: self.nodes[index].address,
            to: wish.address,
            payload: Payload::Question(id, frame),
        };
        self.network.send(self.now, parcel);
        for silenced in std::mem::take(&mut self.network.silenced) {
            self.hasten(silenced);
        }
    }
}

/// Returns whether a node considers another a member.
fn belongs(node: &Node, other: NodeId) -> bool {
    let running = node.running.as_ref();
    running.is_none_or(|running| running.machine.trust().is_member(&other))
}
