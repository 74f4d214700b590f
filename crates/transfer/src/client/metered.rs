//! State of a metered network, which costs by the byte.

use tokio::sync::watch;

use super::Fetcher;

impl Fetcher {
    /// Sets whether the network is metered. If it is, this fetcher does not read ahead. Fills go
    /// on, because a user requested them.
    pub fn set_metered(&self, metered: bool) {
        self.inner.settings.metered.send_replace(metered);
        self.inner
            .with(|session, _| session.plan.set_metered(metered));
    }

    /// Returns whether the network is metered.
    pub fn is_metered(&self) -> bool {
        *self.inner.settings.metered.borrow()
    }

    /// Returns a receiver that follows the metered state.
    pub fn metered(&self) -> watch::Receiver<bool> {
        self.inner.settings.metered.subscribe()
    }
}
