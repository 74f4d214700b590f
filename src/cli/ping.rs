//! `p2pfs ping`: round-trip time to another node.

use std::thread;
use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::complete;
use super::connect::Reporting;
use super::error::CliError;
use super::output::Output;
use super::text::printable;
use crate::daemon::control::{Call, Pong};

/// Pause between two pings.
const PERIOD: Duration = Duration::from_secs(1);

/// The arguments of `p2pfs ping`.
#[derive(Debug, Clone, Args)]
pub struct PingOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The node, by its name or its address
    #[arg(value_name = "NODE", add = ArgValueCompleter::new(complete::peers))]
    peer: String,
    /// How often to ask, a second apart
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

pub(super) fn run(options: &PingOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open()?;
    for asked in 0..options.count {
        if asked > 0 {
            thread::sleep(PERIOD);
        }
        let peer = options.peer.clone();
        let pong: Pong = client.call(&Call::Ping { peer })?;
        if options.reporting.json {
            output.json_line(&pong)?
        } else {
            output.line(&sentence(&pong))?;
            output.flush()?;
        }
    }
    Ok(())
}

fn sentence(pong: &Pong) -> String {
    let udp = match pong.udp_ms {
        Some(ms) => format!("{ms:.1} ms over UDP"),
        None => "not measured over UDP".to_owned(),
    };
    let (name, address) = (printable(&pong.name), &pong.address);
    format!("{name} ({address}): {:.1} ms over TCP, {udp}", pong.tcp_ms)
}
