//! Answers about the transfer rates between nodes, and about metered networks.

use super::Services;
use crate::daemon::config::RATE_MIN_BYTES;
use crate::daemon::control::{Failure, FailureKind, Limits};
use p2pfs_node::api::RateLimits;

pub(super) fn limits(services: &Services) -> Limits {
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

/// Sets the given limits until the next start, or until a reload with other configured limits. A
/// rate of 0 means no limit. If all three arguments are `None`, restores the configured limits.
pub(super) fn set_limits(
    services: &Services,
    (up, down): (Option<u64>, Option<u64>),
    metered: Option<bool>,
) -> Result<Limits, Failure> {
    if (up, down, metered) == (None, None, None) {
        return Ok(limit_as_configured(services));
    }
    let mut set = [up, down].into_iter().flatten();
    if set.any(|rate| (1..RATE_MIN_BYTES).contains(&rate)) {
        let message = format!("the least is {RATE_MIN_BYTES} bytes a second");
        return Err(Failure::new(FailureKind::Invalid, message));
    }
    let limit = |rate: u64| (rate > 0).then_some(rate);
    let now = services.node.traffic().limits();
    services.node.traffic().set_limits(RateLimits {
        up_bytes_per_s: up.map_or(now.up_bytes_per_s, limit),
        down_bytes_per_s: down.map_or(now.down_bytes_per_s, limit),
    });
    if let Some(metered) = metered {
        services.node.traffic().set_metered(metered);
    }
    Ok(limits(services))
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
