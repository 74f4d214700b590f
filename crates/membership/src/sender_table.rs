//! Table of bounded size in which a sender displaces its own entries.
//!
//! Members pass on news about other nodes. In a cluster with a secret file, a member can invent as
//! many of them as it likes. If a full table removed its oldest or its first entry, one member
//! could choose which news of the others is removed.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::RangeBounds;

use p2pfs_types::id::NodeId;

/// Entries by key, each with the member that sent it.
pub(super) struct SenderTable<K, V> {
    entries: BTreeMap<K, SentEntry<V>>,
    /// The keys of each sender by the numbers of the entries, so the first is the oldest.
    by_sender: BTreeMap<NodeId, BTreeMap<u64, K>>,
    next_number: u64,
    entries_max: usize,
}

struct SentEntry<V> {
    value: V,
    sender: NodeId,
    number: u64,
}

impl<K: Ord + Copy, V> SenderTable<K, V> {
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_sender: BTreeMap::new(),
            next_number: 0,
            entries_max,
        }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    pub(super) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn sender_of(&self, key: &K) -> Option<NodeId> {
        self.entries.get(key).map(|entry| entry.sender)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds an entry as the newest one of its sender, or replaces the one with this key. If the
    /// table is full, removes the oldest entry of this sender, or of the sender with the most
    /// entries if this one has none. Returns the key of the removed entry.
    pub(super) fn insert(&mut self, sender: NodeId, key: K, value: V) -> Option<K> {
        self.remove(&key);
        let displaced = self.displaced_by(&sender);
        displaced.iter().for_each(|key| drop(self.remove(key)));
        let number = self.next_number;
        self.next_number += 1;
        let entry = SentEntry {
            value,
            sender,
            number,
        };
        self.entries.insert(key, entry);
        self.by_sender
            .entry(sender)
            .or_default()
            .insert(number, key);
        displaced
    }

    /// Removes an entry. Returns its value, if there was one.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        if let Some(keys) = self.by_sender.get_mut(&entry.sender) {
            keys.remove(&entry.number);
            if keys.is_empty() {
                self.by_sender.remove(&entry.sender);
            }
        }
        Some(entry.value)
    }

    /// Returns the senders that have entries.
    pub(super) fn senders(&self) -> impl Iterator<Item = &NodeId> {
        self.by_sender.keys()
    }

    /// Removes and returns the oldest entry of a sender.
    pub(super) fn take_oldest(&mut self, sender: &NodeId) -> Option<(K, V)> {
        let key = *self.by_sender.get(sender)?.values().next()?;
        Some((key, self.remove(&key)?))
    }

    /// Removes the entries with keys for which `keep` returns false.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let keys = self.entries.keys().filter(|key| !keep(key));
        let keys: Vec<K> = keys.copied().collect();
        keys.iter().for_each(|key| drop(self.remove(key)));
    }

    /// Removes the entries with keys in a range.
    pub(super) fn remove_range(&mut self, range: impl RangeBounds<K>) {
        let keys: Vec<K> = self.entries.range(range).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| drop(self.remove(key)));
    }

    /// Makes an entry one of this sender's, as its newest one.
    pub(super) fn attribute_to(&mut self, sender: NodeId, key: K) {
        if self.sender_of(&key).is_some_and(|before| before != sender)
            && let Some(value) = self.remove(&key)
        {
            self.insert(sender, key, value);
        }
    }

    fn displaced_by(&self, sender: &NodeId) -> Option<K> {
        if self.entries.len() < self.entries_max {
            return None;
        }
        let oldest = |keys: &BTreeMap<u64, K>| keys.keys().next().copied();
        let most = || {
            let senders = self.by_sender.values();
            senders.max_by_key(|keys| (keys.len(), Reverse(oldest(keys))))
        };
        let keys = self.by_sender.get(sender).or_else(most)?;
        keys.values().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    #[test]
    fn a_flood_of_one_sender_displaces_only_its_own_entries() {
        let mut table = SenderTable::new(8);
        for key in 0..4 {
            table.insert(sender(1), key, ());
        }
        let displaced: Vec<_> = (10..100)
            .filter_map(|key| table.insert(sender(2), key, ()))
            .collect();
        assert_eq!(displaced, (10..96).collect::<Vec<_>>());
        assert!((0..4).chain(96..100).all(|key| table.contains(&key)));
        assert_eq!(table.len(), 8);
    }

    #[test]
    fn a_new_sender_displaces_the_oldest_entry_of_the_sender_with_the_most() {
        let mut table = SenderTable::new(4);
        table.insert(sender(9), 0, ());
        for key in [5, 3, 4] {
            table.insert(sender(1), key, ());
        }
        assert_eq!(table.insert(sender(2), 7, ()), Some(5));
        assert_eq!(table.insert(sender(2), 8, ()), Some(7), "now its own");
        assert_eq!(table.insert(sender(3), 9, ()), Some(3));
        assert_eq!(table.insert(sender(4), 10, ()), Some(0), "all have one");
    }

    #[test]
    fn a_replaced_entry_is_its_last_senders_and_displaces_none() {
        let mut table = SenderTable::new(2);
        table.insert(sender(1), 1, "a");
        table.insert(sender(1), 2, "b");
        assert_eq!(table.insert(sender(2), 1, "c"), None);
        assert_eq!(
            (table.get(&1), table.sender_of(&1)),
            (Some(&"c"), Some(sender(2)))
        );
        table.attribute_to(sender(3), 2);
        assert_eq!(
            (table.get(&2), table.sender_of(&2)),
            (Some(&"b"), Some(sender(3)))
        );
        table.attribute_to(sender(3), 7);
        assert!(!table.contains(&7));
        table.remove_range(1..=2);
        assert!(table.entries.is_empty() && table.by_sender.is_empty());
    }
}
