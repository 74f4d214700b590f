//! `p2pfs write`: where what programs write into the mount goes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::connect::Reporting;
use super::error::CliError;
use super::output::Output;
use super::questions;
use super::share::folder;
use super::text::{escape, printable};
use crate::daemon::control::{Call, Named, Writing};

/// The arguments of `p2pfs write`; without a subcommand it says where writing goes.
#[derive(Debug, Clone, Args)]
pub struct WriteOptions {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    reporting: Reporting,
}

#[derive(Debug, Clone, Subcommand)]
enum Change {
    /// Let programs write in the mount, now and after every restart
    On {
        /// The folder that takes the files [default: files in the state directory]
        dir: Option<PathBuf>,
        /// Do it without a question, also for a folder of the system or a whole home
        #[arg(long)]
        yes: bool,
    },
    /// Make the mount read-only; the files stay shared
    Off,
}

pub(super) fn run(options: WriteOptions, output: &mut Output) -> Result<(), CliError> {
    let reporting = options.reporting;
    let call = match options.change {
        None => Call::Writing {},
        Some(Change::On { dir: None, .. }) => Call::WriteOn { dir: None },
        Some(Change::On {
            dir: Some(dir),
            yes,
        }) => {
            let dir = folder(&dir)?;
            // Without a daemon, the command fails before it asks.
            let _there = reporting.open()?;
            questions::ask_before_sharing(&dir, yes)?;
            Call::WriteOn {
                dir: Some(Named::from_local(&dir)),
            }
        }
        Some(Change::Off) => Call::WriteOff {},
    };
    let writing: Writing = reporting.open()?.call(&call)?;
    if reporting.json {
        output.json(&writing)
    } else {
        print(&writing, output)
    }
}

fn print(writing: &Writing, output: &mut Output) -> Result<(), CliError> {
    if writing.folders.is_empty() && writing.problem.is_none() {
        return output.line("the mount is read-only; to let programs write: p2pfs write on [DIR]");
    }
    for folder in &writing.folders {
        let place = match &folder.place {
            Some(place) => format!("at and below {}", printable(place)),
            None => "in the mount".to_owned(),
        };
        let dir = escape(folder.dir.as_bytes());
        output.paragraph("", &format!("what is written {place} goes into {dir}"))?;
        if let Some(problem) = &folder.problem {
            output.paragraph("  ", &format!("not now: {}", printable(problem)))?;
        }
    }
    if let Some(problem) = &writing.problem {
        output.paragraph("", &printable(problem))?;
    }
    Ok(())
}
