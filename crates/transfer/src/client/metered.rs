//! Whether what is fetched costs by the byte.

use tokio::sync::watch;

use super::Fetcher;

impl Fetcher {
    /// Whether nothing is fetched that nobody asked for from now on: nothing ahead of readers, no
    /// small files before they are opened. Fills go on: who begins one looks at it.
    pub fn set_metered(&self, metered: bool) {
        self.inner.metered.send_replace(metered);
        self.inner.with(|session, _| session.set_metered(metered));
    }

    /// Whether it is so now.
    pub fn is_metered(&self) -> bool {
        *self.inner.metered.borrow()
    }

    /// The same, for who waits for it to change.
    pub fn metered(&self) -> watch::Receiver<bool> {
        self.inner.metered.subscribe()
    }
}
