//! The messages and events that wait for the owner of the state machine.

use std::collections::VecDeque;

use super::{ConnId, MeshEvent};

/// Maximum waiting messages, and maximum waiting events. Further ones are dropped.
const OUTBOX_MAX: usize = 16_384;

/// Messages and events, each in the order in which they were added.
#[derive(Default)]
pub(super) struct MeshOutbox {
    transmits: VecDeque<(ConnId, Vec<u8>)>,
    events: VecDeque<MeshEvent>,
}

impl MeshOutbox {
    pub(super) fn send(&mut self, conn: ConnId, bytes: Vec<u8>) {
        if self.transmits.len() < OUTBOX_MAX {
            self.transmits.push_back((conn, bytes));
        }
    }

    pub(super) fn send_to_all(&mut self, conns: impl IntoIterator<Item = ConnId>, bytes: &[u8]) {
        for conn in conns {
            self.send(conn, bytes.to_vec());
        }
    }

    pub(super) fn report(&mut self, event: MeshEvent) {
        // dropping is harmless: an owner that takes no more events is shutting down
        if self.events.len() < OUTBOX_MAX {
            self.events.push_back(event);
        }
    }

    pub(super) fn next_transmit(&mut self) -> Option<(ConnId, Vec<u8>)> {
        self.transmits.pop_front()
    }

    pub(super) fn next_event(&mut self) -> Option<MeshEvent> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_events_keep_their_order_and_are_bounded() {
        let mut outbox = MeshOutbox::default();
        for number in 0..OUTBOX_MAX as u64 + 10 {
            outbox.send(ConnId(number), vec![1]);
            outbox.report(MeshEvent::Close(ConnId(number)));
        }
        let conns = (0..OUTBOX_MAX as u64).map(ConnId);
        let sent = std::iter::from_fn(|| outbox.next_transmit());
        assert!(sent.map(|(conn, _)| conn).eq(conns.clone()));
        let events = std::iter::from_fn(|| outbox.next_event());
        assert!(events.eq(conns.map(MeshEvent::Close)));
    }
}
