//! Answers about the settings in force, the transfer rates between nodes, and metered networks.

use super::{Asked, Services};
use crate::daemon::config::RATE_MIN_BYTES;
use crate::daemon::control::{Answer, Failure, FailureKind, Limits, Settings, parameters};
use p2pfs_node::api::RateLimits;

impl Answer<Asked> for parameters::Settings {
    async fn answer(self, asked: &mut Asked) -> Result<Settings, Failure> {
        Ok(asked.services.settings.in_force.load().shown.clone())
    }
}

impl Answer<Asked> for parameters::Limits {
    async fn answer(self, asked: &mut Asked) -> Result<Limits, Failure> {
        Ok(limits(&asked.services))
    }
}

impl Answer<Asked> for parameters::SetLimits {
    /// Sets the given limits until the next start, or until a reload with other configured limits.
    /// A rate of 0 means no limit. Without any argument, restores the configured limits.
    async fn answer(self, asked: &mut Asked) -> Result<Limits, Failure> {
        let (up, down, metered) = (self.up_bytes_per_s, self.down_bytes_per_s, self.metered);
        let services = &asked.services;
        if (up, down, metered) == (None, None, None) {
            return Ok(limit_as_configured(services));
        }
        let mut set = [up, down].into_iter().flatten();
        if set.any(|rate| (1..RATE_MIN_BYTES).contains(&rate)) {
            let message = format!("the least is {RATE_MIN_BYTES} bytes a second");
            return Err(Failure::new(FailureKind::Invalid, message));
        }
        let limit = |rate: u64| (rate > 0).then_some(rate);
        let traffic = services.node.traffic();
        let now = traffic.limits();
        traffic.set_limits(RateLimits {
            up_bytes_per_s: up.map_or(now.up_bytes_per_s, limit),
            down_bytes_per_s: down.map_or(now.down_bytes_per_s, limit),
        });
        if let Some(metered) = metered {
            traffic.set_metered(metered);
        }
        Ok(limits(services))
    }
}

fn limits(services: &Services) -> Limits {
    let configured = &services.settings.in_force.load().config.limits;
    let now = services.node.traffic().limits();
    Limits {
        up_bytes_per_s: now.up_bytes_per_s,
        down_bytes_per_s: now.down_bytes_per_s,
        configured_up_bytes_per_s: configured.up.0,
        configured_down_bytes_per_s: configured.down.0,
        metered: services.node.traffic().is_metered(),
        configured_metered: configured.metered,
    }
}

/// Restores the configured limits.
pub(in crate::daemon::service) fn limit_as_configured(services: &Services) -> Limits {
    let in_force = services.settings.in_force.load();
    let configured = &in_force.config.limits;
    services.node.traffic().set_limits(RateLimits {
        up_bytes_per_s: configured.up.0,
        down_bytes_per_s: configured.down.0,
    });
    services.node.traffic().set_metered(configured.metered);
    limits(services)
}
