//! Answers about how fast bytes may go between nodes.

use super::Service;
use crate::daemon::config::RATE_MIN_BYTES;
use crate::daemon::control::{Failure, FailureKind, Limits};

impl Service {
    pub(super) fn limits(&self) -> Limits {
        let configured = &self.in_force.load().config.limits;
        Limits {
            up_bytes_per_s: self.node.server().upload().bytes_per_s(),
            down_bytes_per_s: self.node.fetcher().download().bytes_per_s(),
            configured_up_bytes_per_s: configured.up.0,
            configured_down_bytes_per_s: configured.down.0,
        }
    }

    /// Sets what is named, until the next start; 0 stands for no limit.
    pub(super) fn set_limits(&self, up: Option<u64>, down: Option<u64>) -> Result<Limits, Failure> {
        let set = [up, down].into_iter().flatten();
        if set
            .into_iter()
            .any(|rate| (1..RATE_MIN_BYTES).contains(&rate))
        {
            let message = format!("the least is {RATE_MIN_BYTES} bytes a second");
            return Err(Failure::new(FailureKind::Invalid, message));
        }
        let limit = |rate: u64| (rate > 0).then_some(rate);
        if let Some(up) = up {
            self.node.server().upload().set(limit(up));
        }
        if let Some(down) = down {
            self.node.fetcher().download().set(limit(down));
        }
        Ok(self.limits())
    }

    /// Sets both as the configuration has them.
    pub(in crate::daemon) fn limit_as_configured(&self) -> Limits {
        let in_force = self.in_force.load();
        let configured = &in_force.config.limits;
        self.node.server().upload().set(configured.up.0);
        self.node.fetcher().download().set(configured.down.0);
        self.limits()
    }
}
