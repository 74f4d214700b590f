//! `p2pfs share`: what this node offers.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;

use super::complete;
use super::connect::Reporting;
use super::daemon::absolute;
use super::error::CliError;
use super::output::{Output, escape, human_bytes, printable};
use crate::daemon::control::{Call, Named, ShareInfo, ShareState, Shares};

/// The arguments of `p2pfs share`; without any it lists.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ShareOptions {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    reporting: Reporting,
}

#[derive(Debug, Clone, Subcommand)]
enum Change {
    /// List the folders that are shared
    Ls(Reporting),
    /// Share a folder, now and after every restart
    Add {
        #[command(flatten)]
        reporting: Reporting,
        /// The folder
        dir: PathBuf,
        /// Share also what others on this machine may not read
        #[arg(long)]
        include_private: bool,
        /// Give its files to older peers, too
        #[arg(long)]
        legacy: bool,
    },
    /// Share a folder no more
    Remove {
        #[command(flatten)]
        reporting: Reporting,
        /// The folder
        #[arg(add = ArgValueCompleter::new(complete::shares))]
        dir: PathBuf,
    },
}

pub(super) fn run(options: ShareOptions, output: &mut Output) -> Result<(), CliError> {
    let (reporting, call) = match options.change {
        None => (options.reporting, Call::Shares {}),
        Some(Change::Ls(reporting)) => (reporting, Call::Shares {}),
        Some(Change::Add {
            reporting,
            dir,
            include_private,
            legacy,
        }) => (
            reporting,
            Call::ShareAdd {
                dir: folder(&dir)?,
                include_private,
                legacy,
            },
        ),
        Some(Change::Remove { reporting, dir }) => {
            // a folder that is gone can still be taken off the list
            let dir = dir.canonicalize().or_else(|_| absolute(&dir))?;
            (
                reporting,
                Call::ShareRemove {
                    dir: Named::from_local(&dir),
                },
            )
        }
    };
    let shares: Shares = reporting.open()?.call(&call)?;
    match reporting.json {
        true => output.json(&shares),
        false => print(&shares, output),
    }
}

/// The folder by its real path, so that it is known by one name only.
fn folder(dir: &Path) -> Result<Named, CliError> {
    let real = dir.canonicalize().map_err(|e| {
        CliError::new(
            format!("cannot share {}: {e}", dir.display()),
            "name a folder that is there",
        )
    })?;
    match real.is_dir() {
        true => Ok(Named::from_local(&real)),
        false => Err(CliError::new(
            format!("cannot share {}: it is no folder", dir.display()),
            "share the folder that holds it",
        )),
    }
}

fn print(shares: &Shares, output: &mut Output) -> Result<(), CliError> {
    if shares.shares.is_empty() {
        return output.line("nothing is shared; to share a folder: p2pfs share add DIR");
    }
    for share in &shares.shares {
        print_one("", share, output)?;
    }
    Ok(())
}

/// A share in a few lines, the first behind `lead`.
pub(super) fn print_one(
    lead: &str,
    share: &ShareInfo,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut said = vec![format!(
        "{} files, {}",
        share.files,
        human_bytes(share.bytes)
    )];
    match share.state {
        ShareState::Scanning => said.push("being read".to_owned()),
        ShareState::Unreadable => said.push("cannot be read".to_owned()),
        ShareState::Ready => {}
    }
    if share.pending_files > 0 {
        said.push(format!("{} waiting to be hashed", share.pending_files));
    }
    if share.include_private {
        said.push("private files included".to_owned());
    }
    if share.legacy {
        said.push("for older peers too".to_owned());
    }
    let line = format!("{}  {}", escape(share.dir.as_bytes()), said.join(", "));
    output.paragraph(lead, &line)?;
    if share.left_out_files > 0 {
        let why = format!(
            "left out, {} in all: what others may not read, links out, what is no file",
            share.left_out_files
        );
        output.paragraph("  ", &why)?;
    }
    for problem in &share.problems {
        let name = escape(problem.path.as_bytes());
        output.paragraph("  ", &format!("{name}: {}", printable(&problem.why)))?;
    }
    Ok(())
}
