//! Events that wait for earlier changes.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::EventSeq;
use crate::config::ShareEvent;
use crate::identity::FileTimestamp;
use p2pfs_proto::wire::native::record::{Kind, ShareIndex};
use p2pfs_types::path::SharedPath;

/// Capacity of the name map that is kept while it is empty. A first walk grows it far beyond that.
const ROOM_KEPT: usize = 1 << 10;

/// A name of the listing.
pub(crate) type NameInShare = (ShareIndex, SharedPath);

/// A held event, with the time of the change.
pub(super) struct HeldEvent {
    pub(super) changed: FileTimestamp,
    /// Whether the change may belong to a later turn.
    pub(super) ahead: bool,
    pub(super) event: ShareEvent,
}

/// The held events by their turns.
#[derive(Default)]
pub(super) struct HeldEvents {
    by_turn: BTreeMap<EventSeq, Vec<HeldEvent>>,
    /// Last turn in which an event of the name is held, so that the events of one name keep their
    /// order.
    names: HashMap<NameInShare, EventSeq>,
}

impl HeldEvents {
    /// Holds an event in a turn, or in a later turn that has an event of the same name.
    pub(super) fn insert(&mut self, mut turn: EventSeq, held: HeldEvent) {
        if let Some(name) = name_of(&held.event) {
            let last = self.names.entry(name).or_insert(turn);
            *last = turn.max(*last);
            turn = *last;
        }
        self.by_turn.entry(turn).or_default().push(held);
    }

    /// Returns whether an event of this name is held.
    pub(super) fn has(&self, name: &NameInShare) -> bool {
        self.names.contains_key(name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_turn.is_empty()
    }

    /// Returns the first turn of which an event is held.
    pub(super) fn first_turn(&self) -> Option<EventSeq> {
        self.by_turn.first_key_value().map(|(turn, _)| *turn)
    }

    /// Moves the events of one turn to `out`, in the order in which they arrived.
    pub(super) fn release_turn(&mut self, turn: EventSeq, out: &mut Vec<ShareEvent>) {
        let held = self.by_turn.remove(&turn).unwrap_or_default();
        for HeldEvent { event, .. } in held {
            self.forget_name(turn, &event);
            out.push(event);
        }
    }

    /// Moves the events of all turns up to `last` to `out`, in the order of their changes.
    pub(super) fn release_unit(&mut self, last: EventSeq, out: &mut Vec<ShareEvent>) {
        let later = self.by_turn.split_off(&EventSeq(last.0 + 1));
        let unit = std::mem::replace(&mut self.by_turn, later);
        let mut unit: Vec<HeldEvent> = unit.into_values().flatten().collect();
        unit.iter()
            .for_each(|held| self.forget_name(last, &held.event));
        drop_superseded(&mut unit);
        unit.sort_by_key(HeldEvent::rank);
        out.extend(unit.into_iter().map(|held| held.event));
    }

    /// Forgets the last turn of a name once none of its events is held.
    fn forget_name(&mut self, turn: EventSeq, event: &ShareEvent) {
        if let Some(name) = name_of(event)
            && self.names.get(&name).is_some_and(|last| *last <= turn)
        {
            self.names.remove(&name);
            if self.names.is_empty() {
                self.names.shrink_to(ROOM_KEPT);
            }
        }
    }
}

impl HeldEvent {
    /// Returns the sort key within a unit: directories, then other entries, then removals, each by
    /// change time. Within one clock tick, events that may belong to a later turn sort last.
    fn rank(&self) -> (bool, bool, FileTimestamp, bool) {
        let directory = match &self.event {
            ShareEvent::Put { entry, .. } => entry.kind == Kind::Directory,
            _ => false,
        };
        let gone = matches!(self.event, ShareEvent::Removed { .. });
        (gone, !directory, self.changed, self.ahead)
    }
}

pub(crate) fn name_of(event: &ShareEvent) -> Option<NameInShare> {
    match event {
        ShareEvent::Put { share, path, .. } | ShareEvent::Removed { share, path } => {
            Some((*share, path.clone()))
        }
        ShareEvent::Vacated { .. }
        | ShareEvent::Scanned { .. }
        | ShareEvent::Warning { .. }
        | ShareEvent::Settled { .. }
        | ShareEvent::Readers { .. }
        | ShareEvent::Terms { .. } => None,
    }
}

/// Removes events that a later put of the same name supersedes, so that sorting the rest cannot
/// undo it.
fn drop_superseded(unit: &mut Vec<HeldEvent>) {
    let mut put = HashSet::new();
    unit.reverse();
    unit.retain(|held| match (&held.event, name_of(&held.event)) {
        (ShareEvent::Put { .. }, Some(name)) => put.insert(name),
        (_, Some(name)) => !put.contains(&name),
        (_, None) => true,
    });
    unit.reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(name: &str) -> HeldEvent {
        let path = SharedPath::new(name.as_bytes()).unwrap();
        HeldEvent {
            changed: FileTimestamp::default(),
            ahead: false,
            event: ShareEvent::Removed {
                share: ShareIndex(0),
                path,
            },
        }
    }

    #[test]
    fn later_events_of_a_held_name_wait_in_its_last_turn_until_the_name_is_forgotten() {
        let (mut held, mut out) = (HeldEvents::default(), Vec::new());
        held.insert(EventSeq(5), removed("x"));
        held.insert(EventSeq(2), removed("x"));
        held.insert(EventSeq(2), removed("y"));
        assert_eq!(held.first_turn(), Some(EventSeq(2)));
        held.release_turn(EventSeq(2), &mut out);
        assert_eq!(out, [removed("y").event]);
        assert_eq!(held.first_turn(), Some(EventSeq(5)));
        held.release_unit(EventSeq(6), &mut out);
        assert!(held.is_empty() && held.names.is_empty());
        held.insert(EventSeq(3), removed("x"));
        assert_eq!(held.first_turn(), Some(EventSeq(3)));
    }
}
