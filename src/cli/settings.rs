//! `p2pfs config show`: current settings and their origins.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::connect::Reporting;
use super::daemon::{DaemonOptions, config_or_variable};
use super::error::CliError;
use super::output::Output;
use super::text::printable;
use crate::daemon::config::load;
use crate::daemon::control::{Call, ClientError, Settings};

/// The arguments of `p2pfs config`.
#[derive(Debug, Clone, Args)]
pub struct ConfigOptions {
    #[command(flatten)]
    reporting: Reporting,
    #[command(subcommand)]
    action: SettingsAction,
}

#[derive(Debug, Clone, Subcommand)]
enum SettingsAction {
    /// Show each setting, and where it comes from
    Show(ShowOptions),
}

/// The flags of `p2pfs config show`.
#[derive(Debug, Clone, Args)]
struct ShowOptions {
    /// Show the settings that this file gives, instead of those of the running daemon
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(super) fn run(options: ConfigOptions, output: &mut Output) -> Result<(), CliError> {
    let ConfigOptions { reporting, action } = options;
    let SettingsAction::Show(options) = action;
    let settings = settings(&reporting, options)?;
    if reporting.json {
        output.json(&settings)
    } else {
        print(&settings, output)
    }
}

/// Returns the settings of the running daemon. If no daemon runs or the user names a file, returns
/// the settings that a daemon would have if it started now.
fn settings(reporting: &Reporting, options: ShowOptions) -> Result<Settings, CliError> {
    if options.config.is_none() {
        match reporting.try_open() {
            Ok(mut client) => return Ok(client.call(&Call::Settings {})?),
            Err(ClientError::NotRunning { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let daemon = DaemonOptions {
        config: config_or_variable(options.config),
        ..DaemonOptions::default()
    };
    let loaded = load(&daemon.sources()?).map_err(Box::new)?;
    Ok(loaded.settings())
}

fn print(settings: &Settings, output: &mut Output) -> Result<(), CliError> {
    for setting in &settings.settings {
        let value = if setting.value.is_empty() {
            "not set"
        } else {
            &setting.value
        };
        let mut said = format!("{}  ({})", printable(value), printable(&setting.origin));
        if let Some(next) = &setting.after_restart {
            said.push_str(&format!(", after a restart {}", printable(next)));
        }
        output.paragraph(&format!("{} = ", setting.key), &said)?;
    }
    Ok(())
}
