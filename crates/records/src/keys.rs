//! The keys of a connection and their updates (RFC 8446, section 4.6.3).
//!
//! rustls derives each next key (`rustls::kernel`). Each direction updates its own key.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

use crate::seal::{Opener, RecordError, Sealer};

/// Source of the next keys.
pub(crate) enum KeySource {
    Client(KernelConnection<ClientConnectionData>),
    Server(KernelConnection<ServerConnectionData>),
    /// Keys made from numbers, for tests without a handshake. Each field is the number of its
    /// direction's current key. The same number gives the same key in both directions.
    #[cfg(any(test, feature = "test-support"))]
    Numbered {
        sealer: u8,
        opener: u8,
    },
}

/// The state that both directions share.
pub(crate) struct KeyUpdates {
    source: Mutex<KeySource>,
    /// Whether the other end wants this end to update its key.
    is_update_due: AtomicBool,
}

impl KeyUpdates {
    pub(crate) fn new(source: KeySource) -> Self {
        Self {
            source: Mutex::new(source),
            is_update_due: AtomicBool::new(false),
        }
    }

    /// Derives the next key of this end.
    ///
    /// # Errors
    /// [`RecordError::Worn`]
    pub(crate) fn next_sealer(&self) -> Result<Sealer, RecordError> {
        let secrets = match &mut *self.source.lock() {
            KeySource::Client(source) => source.update_tx_secret(),
            KeySource::Server(source) => source.update_tx_secret(),
            #[cfg(any(test, feature = "test-support"))]
            KeySource::Numbered { sealer, .. } => crate::testing::next_secrets(sealer),
        };
        let sealer = secrets.ok().and_then(Sealer::new);
        sealer.ok_or(RecordError::Worn)
    }

    /// Derives the next key of the other end.
    ///
    /// # Errors
    /// [`RecordError::Worn`]
    pub(crate) fn next_opener(&self) -> Result<Opener, RecordError> {
        let secrets = match &mut *self.source.lock() {
            KeySource::Client(source) => source.update_rx_secret(),
            KeySource::Server(source) => source.update_rx_secret(),
            #[cfg(any(test, feature = "test-support"))]
            KeySource::Numbered { opener, .. } => crate::testing::next_secrets(opener),
        };
        let opener = secrets.ok().and_then(Opener::new);
        opener.ok_or(RecordError::Worn)
    }

    /// Makes this end update its key before it seals the next record.
    pub(crate) fn request_update(&self) {
        self.is_update_due.store(true, Ordering::Relaxed);
    }

    /// Returns whether an update of this end's key was requested, and clears the request.
    pub(crate) fn take_update(&self) -> bool {
        // This runs for each sealed record, and a load of a shared flag costs less than a swap.
        self.is_update_due.load(Ordering::Relaxed)
            && self.is_update_due.swap(false, Ordering::Relaxed)
    }
}
