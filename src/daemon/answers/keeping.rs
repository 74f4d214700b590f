//! Goes on fetching what is pinned and not whole yet: a pin outlives the daemon, its holders and a
//! cache that was too small. Never decides what is pinned.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Service;
use crate::node::door::Contents;

/// How soon a pinned file goes on after its holder came back, or there is room again. Looking
/// costs one walk over the pins, in memory.
const LOOK_PERIOD: Duration = Duration::from_secs(5);

impl Service {
    /// Fetches what is pinned and missing, for as long as the daemon runs.
    pub async fn keep_pins(self: Arc<Self>) {
        let mut look = interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let missing = self.blocking(|service| Ok(service.missing_pins())).await;
            if let Ok(missing) = missing
                && !missing.is_empty()
            {
                // what fails is looked at again
                self.fill_all(missing, None).await;
            }
        }
    }

    /// Of the pinned contents those that are not whole here, that somebody can give and that the
    /// cache can hold.
    fn missing_pins(&self) -> Contents {
        let cache = self.node.cache();
        let fits = |size_bytes: u64, here_bytes| cache.could_hold(size_bytes - here_bytes);
        let unfinished = self.unfinished_pins().into_iter();
        unfinished
            .filter(|(hash, (size, _))| fits(*size, cache.cached_bytes(hash).min(*size)))
            .collect()
    }

    /// The pinned contents that are not whole here, with their sizes, as far as they are known.
    fn unfinished_pins(&self) -> Contents {
        let (cache, view) = (self.node.cache(), self.node.view());
        let is_here = |hash: &_| cache.is_complete(hash) || self.node.shares().holds(hash);
        let pins = cache.pins().into_iter().filter(|hash| !is_here(hash));
        pins.filter_map(|hash| {
            let content = view.by_hash(&hash)?;
            let path = view.names_of(&hash, 1).pop()?;
            Some((hash, (content.size_bytes, path)))
        })
        .collect()
    }

    /// The bytes of all that is pinned, those that are still to come included.
    pub(super) fn pinned_bytes(&self) -> u64 {
        let cache = self.node.cache();
        let to_come = |(hash, (size_bytes, _)): (_, &(u64, _))| {
            size_bytes.saturating_sub(cache.cached_bytes(hash))
        };
        let to_come: u64 = self.unfinished_pins().iter().map(to_come).sum();
        cache.usage().pinned_bytes.saturating_add(to_come)
    }
}
