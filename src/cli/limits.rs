//! `p2pfs limits`: maximum transfer rates of this node, and whether the network is metered.

use clap::Args;

use super::connect::Reporting;
use super::error::CliError;
use super::output::Output;
use super::text::on_or_off;
use crate::daemon::config::RateLimit;
use crate::daemon::control::{Call, Limits};

/// The flags of `p2pfs limits`; without flags it shows the limits.
#[derive(Debug, Clone, Args)]
pub struct LimitsOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The maximum upload rate, until the next start or a reload that changes it: such as 1MiB/s, or
    /// none
    #[arg(
        long,
        value_name = "RATE",
        conflicts_with = "configured",
        allow_hyphen_values = true
    )]
    up: Option<RateLimit>,
    /// The maximum download rate, until the next start or a reload that changes it
    #[arg(
        long,
        value_name = "RATE",
        conflicts_with = "configured",
        allow_hyphen_values = true
    )]
    down: Option<RateLimit>,
    /// Whether the network is metered, so that only bytes that a program reads are fetched
    #[arg(long, value_name = "on|off", value_parser = on_or_off(), conflicts_with = "configured")]
    metered: Option<bool>,
    /// Set all limits as in the configuration
    #[arg(long)]
    configured: bool,
}

pub(super) fn run(options: &LimitsOptions, output: &mut Output) -> Result<(), CliError> {
    let rate = |limit: Option<RateLimit>| limit.map(|limit| limit.0.unwrap_or(0));
    let call = match (options.up, options.down, options.metered) {
        (None, None, None) if !options.configured => Call::Limits {},
        (up, down, metered) => Call::SetLimits {
            up_bytes_per_s: rate(up),
            down_bytes_per_s: rate(down),
            metered,
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
        let rate = |rate| RateLimit(rate).to_string();
        print_one(way, &rate(now), &rate(configured), output)?;
    }
    let said = |metered| {
        if metered {
            "yes: nothing is fetched that no program reads"
        } else {
            "no"
        }
    };
    let (now, configured) = (said(limits.metered), said(limits.configured_metered));
    print_one("metered", now, configured, output)
}

fn print_one(what: &str, now: &str, configured: &str, output: &mut Output) -> Result<(), CliError> {
    let note = if now == configured {
        "as configured".to_owned()
    } else {
        format!("temporary; configured: {configured}")
    };
    output.paragraph(&format!("{what:<9}"), &format!("{now}, {note}"))
}
