//! `p2pfs limits`: how fast bytes may go between nodes.

use clap::Args;

use super::connect::Reporting;
use super::error::CliError;
use super::output::Output;
use crate::daemon::config::RateLimit;
use crate::daemon::control::{Call, Limits};

/// The flags of `p2pfs limits`; without any it shows.
#[derive(Debug, Clone, Args)]
pub struct LimitsOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The most that is sent, until the next start: a rate such as 1MiB/s, or none
    #[arg(long, value_name = "RATE", conflicts_with = "configured")]
    up: Option<RateLimit>,
    /// The most that is fetched, until the next start
    #[arg(long, value_name = "RATE", conflicts_with = "configured")]
    down: Option<RateLimit>,
    /// Set both as the configuration has them
    #[arg(long)]
    configured: bool,
}

pub(super) fn run(options: &LimitsOptions, output: &mut Output) -> Result<(), CliError> {
    let rate = |limit: Option<RateLimit>| limit.map(|limit| limit.0.unwrap_or(0));
    let call = match (options.up, options.down) {
        (None, None) if !options.configured => Call::Limits {},
        (up, down) => Call::SetLimits {
            up_bytes_per_s: rate(up),
            down_bytes_per_s: rate(down),
        },
    };
    let limits: Limits = options.reporting.open()?.call(&call)?;
    if options.reporting.json {
        return output.json(&limits);
    }
    let rows = [
        (
            "up",
            limits.up_bytes_per_s,
            limits.configured_up_bytes_per_s,
        ),
        (
            "down",
            limits.down_bytes_per_s,
            limits.configured_down_bytes_per_s,
        ),
    ];
    for (way, now, configured) in rows {
        let (now, configured) = (RateLimit(now), RateLimit(configured));
        let note = match now == configured {
            true => "as configured".to_owned(),
            false => format!("until the next start; configured: {configured}"),
        };
        output.paragraph(&format!("{way:<6}"), &format!("{now}, {note}"))?;
    }
    Ok(())
}
