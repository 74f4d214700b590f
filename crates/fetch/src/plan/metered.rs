//! Metered networks, which cost by the byte. Only explicitly requested bytes are fetched.

use super::Plan;
use super::queue::WorkClass;

impl Plan {
    /// Turns read-ahead off on a metered network, or on again. Answers in flight may still arrive.
    /// Whole files are still fetched, because a user requested them.
    pub fn set_metered(&mut self, metered: bool) {
        self.metered = metered;
        if !metered {
            return;
        }
        let contents: Vec<_> = self.fetches.keys().copied().collect();
        for content in contents {
            self.forget_streams(&content);
            self.queue.dequeue(&content, WorkClass::ReadAhead);
        }
    }
}
