//! Reads that wait for bytes of other nodes.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// Supplier of the bytes of waiting reads, each of which it knows by a number.
pub trait ReadSupplier: Send + Sync {
    /// Returns until when a read waits if nothing more arrives, or `None` if it does not wait.
    fn waits_until(&self, number: u64) -> Option<Instant>;

    /// Cancels a read, unless it has ended.
    fn cancel(self: Arc<Self>, number: u64);
}

/// A read that waits, with its supplier. Dropping it does not cancel the read.
#[derive(Clone)]
pub struct ReadWait(Option<(Arc<dyn ReadSupplier>, u64)>);

impl ReadWait {
    /// Returns the wait of a read that has ended.
    pub fn ended() -> Self {
        Self(None)
    }

    /// Returns the wait of a read that its supplier knows by this number.
    pub fn new(supplier: Arc<dyn ReadSupplier>, number: u64) -> Self {
        Self(Some((supplier, number)))
    }

    /// Returns until when the read waits if nothing more arrives, or `None` if it does not wait.
    pub fn until(&self) -> Option<Instant> {
        let (supplier, number) = self.0.as_ref()?;
        supplier.waits_until(*number)
    }

    /// Cancels the read, unless it has ended.
    pub fn cancel(&self) {
        if let Some((supplier, number)) = &self.0 {
            supplier.clone().cancel(*number);
        }
    }
}

impl fmt::Debug for ReadWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.0.as_ref().map(|(_, number)| number);
        f.debug_tuple("ReadWait").field(&number).finish()
    }
}
