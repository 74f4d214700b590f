//! A network that costs by the byte: nothing is fetched that nobody has asked for.

use super::Plan;
use super::turns::Want;

impl Plan {
    /// Whether nothing is fetched ahead of readers from now on. What is asked already may still
    /// come; whole files that are wanted are, since somebody said so.
    pub fn set_metered(&mut self, metered: bool) {
        self.metered = metered;
        if !metered {
            return;
        }
        let contents: Vec<_> = self.fetches.keys().copied().collect();
        for content in contents {
            self.forget_streams(&content);
            self.take_out(&content, Want::Ahead);
        }
    }
}
