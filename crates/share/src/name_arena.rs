//! Names stored one after another in a single buffer, so that a million names need no allocation
//! each.
//!
//! A removed name leaves a hole. When the holes are more than [`HOLES_KEPT_BYTES`] and more than
//! half of the buffer, the owner moves all names into a new buffer.

/// Alignment of a name, so that a 32-bit position covers 16 GiB of names.
const STEP_BYTES: usize = 4;
/// Bytes of holes below which moving the names is not worthwhile.
const HOLES_KEPT_BYTES: usize = 1 << 16;

/// A buffer of names.
#[derive(Default)]
pub(super) struct NameArena {
    bytes: Vec<u8>,
    holes: usize,
}

/// Position of a name; valid only for the buffer that returned it.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NameRef {
    start: u32,
    length: u16,
}

impl NameArena {
    /// Adds a name. It may be longer than 255 bytes on a filesystem that counts letters.
    pub(super) fn add(&mut self, name: &[u8]) -> NameRef {
        let start = self.bytes.len() / STEP_BYTES;
        let room = name.len().next_multiple_of(STEP_BYTES);
        // grow by a quarter, because doubling would leave half of it unused
        if self.bytes.capacity() - self.bytes.len() < room {
            self.bytes
                .reserve_exact((self.bytes.len() / 4).max(1 << 10) + room);
        }
        self.bytes.extend_from_slice(name);
        self.bytes.resize((start * STEP_BYTES) + room, 0);
        NameRef {
            start: u32::try_from(start).expect("fewer than 16 GiB of names"),
            length: u16::try_from(name.len()).expect("a name is no longer than a path"),
        }
    }

    pub(super) fn get(&self, word: NameRef) -> &[u8] {
        &self.bytes[word.start as usize * STEP_BYTES..][..usize::from(word.length)]
    }

    /// Marks a removed name as a hole.
    pub(super) fn drop(&mut self, word: NameRef) {
        self.holes += usize::from(word.length).next_multiple_of(STEP_BYTES);
    }

    /// Returns whether the remaining names should be moved into a new buffer.
    pub(super) fn is_worn(&self) -> bool {
        self.holes > HOLES_KEPT_BYTES && self.holes > self.bytes.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_are_returned() {
        let mut arena = NameArena::default();
        let lengths = (0..=256).chain([765, 4095]);
        let names: Vec<Vec<u8>> = lengths.map(|length| vec![length as u8; length]).collect();
        let words: Vec<NameRef> = names.iter().map(|name| arena.add(name)).collect();
        for (name, word) in names.iter().zip(words) {
            assert_eq!(arena.get(word), name);
        }
    }

    #[test]
    fn a_buffer_is_compacted_when_more_than_half_of_it_is_holes() {
        let mut arena = NameArena::default();
        let words: Vec<NameRef> = (0..1000).map(|_| arena.add(&[7; 200])).collect();
        words[..500].iter().for_each(|word| arena.drop(*word));
        assert!(!arena.is_worn());
        arena.drop(words[500]);
        assert!(arena.is_worn());
    }
}
