//! A list that stops decoding at its limit.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire::WireError;

/// At most `N` items. A sender that announces more is refused before memory is taken for them.
#[derive(Debug)]
pub(super) struct Bounded<T, const N: usize> {
    /// In the order of the wire.
    pub(super) items: Vec<T>,
}

impl<T: Clone, const N: usize> Bounded<T, N> {
    /// A list to be sent.
    ///
    /// # Errors
    /// [`WireError::TooLong`] for more than `N` items (the numbers are items, not bytes).
    pub(super) fn encode_from(items: &[T]) -> Result<Self, WireError> {
        if items.len() > N {
            let what = "a list";
            return Err(WireError::TooLong {
                what,
                length_bytes: items.len(),
                limit_bytes: N,
            });
        }
        Ok(Self {
            items: items.to_vec(),
        })
    }
}

impl<T: Serialize, const N: usize> Serialize for Bounded<T, N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.items.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Bounded<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor::<T, N>(PhantomData))
    }
}

struct BoundedVisitor<T, const N: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for BoundedVisitor<T, N> {
    type Value = Bounded<T, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {N} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        // The announced number is the sender's word: it can refuse the list, never size it.
        if sequence.size_hint().is_some_and(|announced| announced > N) {
            return Err(A::Error::custom("too many items"));
        }
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            if items.len() == N {
                return Err(A::Error::custom("too many items"));
            }
            items.push(item);
        }
        Ok(Bounded { items })
    }
}
