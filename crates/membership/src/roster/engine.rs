//! The SWIM engine (`foca`) with its table of members and its output.

use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, State, Timer};
use rand::rngs::StdRng;

use crate::identity::MemberLife;
use crate::vouch::{LifeCodec, Vouchers};
use p2pfs_proto::wire::native::udp::Contact;
use p2pfs_types::id::NodeId;

/// A member's life, its state and its incarnation, as the engine stores and tells them.
pub(super) type Update = foca::Member<MemberLife>;
/// The header of an engine packet.
pub(super) type Header = foca::Header<MemberLife>;

/// The engine, and its output.
pub(crate) struct SwimEngine {
    foca: Foca<MemberLife, LifeCodec, StdRng, NoCustomBroadcast>,
    /// Packets, timers and notifications that the roster has not handled yet.
    pub(super) output: AccumulatingRuntime<MemberLife>,
}

impl SwimEngine {
    pub(super) fn new(config: foca::Config, me: Contact, vouchers: Vouchers, rng: StdRng) -> Self {
        Self {
            foca: Foca::new(MemberLife(me), config, rng, LifeCodec(vouchers)),
            output: AccumulatingRuntime::new(),
        }
    }

    /// Returns the present life of this node.
    pub(super) fn me(&self) -> MemberLife {
        *self.foca.identity()
    }

    /// Returns the table of members, at most one entry for each node.
    pub(super) fn entries(&self) -> impl ExactSizeIterator<Item = &Update> {
        self.foca.iter_membership_state()
    }

    /// Returns the entry of a node.
    pub(super) fn entry(&self, node: &NodeId) -> Option<&Update> {
        self.entries().find(|entry| entry.id().0.node == *node)
    }

    /// Returns every remembered member except this node, and its state.
    pub(crate) fn members(&self) -> impl Iterator<Item = (Contact, State)> {
        let me = self.me().0.node;
        self.entries()
            .map(|entry| (entry.id().0, entry.state()))
            .filter(move |(contact, _)| contact.node != me)
    }

    /// Asks the node of life `to` to admit this node as a member.
    pub(super) fn announce(&mut self, to: Contact) {
        let _ = self.foca.announce(MemberLife(to), &mut self.output);
    }

    /// Handles a packet. Returns false if the engine refuses it.
    pub(super) fn receive(&mut self, packet: &[u8]) -> bool {
        self.foca.handle_data(packet, &mut self.output).is_ok()
    }

    /// Applies updates, and passes news among them on to other members.
    pub(super) fn apply(&mut self, updates: impl Iterator<Item = Update>) {
        let _ = self.foca.apply_many(updates, true, &mut self.output);
    }

    /// Applies an update without telling other members.
    pub(super) fn apply_silently(&mut self, update: Update) {
        let updates = std::iter::once(update);
        let _ = self.foca.apply_many(updates, false, &mut self.output);
    }

    /// Continues with this life of this node. Returns false if it is the present one, or if foca
    /// cannot announce it.
    pub(super) fn become_life(&mut self, next: MemberLife) -> bool {
        let is_another = self.foca.change_identity(next, &mut self.output).is_ok();
        if is_another {
            self.reconnect();
        }
        is_another
    }

    /// Restarts the engine's timers. The engine stops them when it changes its identity, until it
    /// receives a packet.
    pub(super) fn reconnect(&mut self) {
        self.apply(std::iter::empty());
    }

    /// Handles a timer that has expired.
    pub(super) fn handle_timer(&mut self, timer: Timer<MemberLife>) {
        let _ = self.foca.handle_timer(timer, &mut self.output);
    }

    /// Changes the settings. The engine refuses a change of its periods.
    pub(super) fn set_config(&mut self, config: foca::Config) {
        let _ = self.foca.set_config(config);
    }
}
