//! `p2pfs share`: folders that this node shares.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;

use super::access::{self, MissingAccess};
use super::complete;
use super::connect::Reporting;
use super::error::CliError;
use super::output::Output;
use super::progress;
use super::questions;
use super::text::{escape, human_bytes, on_or_off, printable};
use crate::daemon::config::units::write_count;
use crate::daemon::control::{
    Call, Client, ClientError, FailureKind, Named, ShareChange, ShareInfo, ShareReader, ShareState,
    Shares,
};
use p2pfs_types::files::trusted_way::{ReachedDir, WayError, reach};
use p2pfs_types::files::without_links_above;

/// Interval between checks of a share's progress.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// The arguments of `p2pfs share`; without a subcommand it lists the shared folders.
#[derive(Debug, Clone, Args)]
pub struct ShareOptions {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    reporting: Reporting,
}

#[derive(Debug, Clone, Subcommand)]
enum Change {
    /// List the folders that are shared
    Ls,
    /// Share a folder, now and after every restart
    Add {
        /// The folder
        dir: PathBuf,
        #[command(flatten)]
        how: How,
        /// Share it without a question, also a folder of the system or a whole home
        #[arg(long)]
        yes: bool,
        /// Let the daemon's user into it with ACLs, without a question
        #[arg(long)]
        acl: bool,
    },
    /// Stop sharing a folder
    Remove {
        /// The folder
        #[arg(add = ArgValueCompleter::new(complete::shares))]
        dir: PathBuf,
    },
}

/// How a folder is shared; what is not given stays as it is.
#[derive(Debug, Clone, Args)]
struct How {
    /// Show its files below this path, from the top of the mount; '' is the top
    #[arg(long = "as", value_name = "PATH")]
    place: Option<String>,
    /// Share also files that other users of this machine may not read
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "on", value_parser = on_or_off())]
    include_private: Option<bool>,
    /// Give its files to legacy peers, too
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "on", value_parser = on_or_off())]
    legacy: Option<bool>,
    /// Share it only with these: names, keys or @groups, separated by commas; '*' is all
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    readers: Option<Vec<String>>,
    /// Exclude files that match this pattern, as in a .gitignore; may be repeated; '' is none
    #[arg(long, value_name = "PATTERN")]
    exclude: Option<Vec<String>>,
    /// Share also files with secrets and leftovers of editors
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "on", value_parser = on_or_off())]
    no_default_excludes: Option<bool>,
    /// Let programs write into it through the mount, at and below its path there
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "on", value_parser = on_or_off())]
    writable: Option<bool>,
    /// Let versions and deletions of other nodes replace its files [default: as --writable]
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "on", value_parser = on_or_off())]
    open: Option<bool>,
}

impl How {
    fn call(self, dir: Named) -> Call {
        let patterns = |mut all: Vec<String>| {
            all.retain(|pattern| !pattern.is_empty());
            all
        };
        let how = ShareChange {
            place: self.place,
            include_private: self.include_private,
            legacy: self.legacy,
            readers: self.readers,
            exclude: self.exclude.map(patterns),
            no_default_excludes: self.no_default_excludes,
            writable: self.writable,
            open: self.open,
        };
        Call::ShareAdd { dir, how }
    }
}

pub(super) fn run(options: ShareOptions, output: &mut Output) -> Result<(), CliError> {
    let reporting = options.reporting;
    let call = match options.change {
        None | Some(Change::Ls) => Call::Shares {},
        Some(Change::Add { dir, how, yes, acl }) => {
            let dir = folder(&dir)?;
            // Without a daemon, the command fails before it asks.
            let _there = reporting.open()?;
            questions::ask_before_sharing(&dir, yes)?;
            return add(&reporting, &dir, how, acl, output);
        }
        Some(Change::Remove { dir }) => {
            // A folder that is gone, or is a link by now, can still be removed from the list.
            let dir = without_links_above(&dir);
            Call::ShareRemove {
                dir: Named::from_local(&dir),
            }
        }
    };
    let answer: Result<Shares, ClientError> = reporting.open()?.call(&call);
    // The ACLs are also withdrawn if the share was removed by an earlier command, because that
    // command may have failed to withdraw them.
    let is_gone = match &answer {
        Ok(_) => true,
        Err(ClientError::Refused(failure)) => failure.kind == FailureKind::NotFound,
        Err(_) => false,
    };
    if let Call::ShareRemove { dir } = &call
        && is_gone
    {
        let dir = dir.as_local();
        // Only a link is followed: the disk of a folder may not answer.
        let is_link = std::fs::read_link(dir).is_ok();
        let reached = is_link.then(|| reach(dir).ok()).flatten();
        access::withdraw(reached.as_ref().map_or(dir, ReachedDir::path))?;
    }
    let shares = answer?;
    if reporting.json {
        output.json(&shares)
    } else {
        print(&shares, output)
    }
}

/// Shares a folder, given by its real path, or changes how it is shared.
fn add(
    reporting: &Reporting,
    dir: &Path,
    how: How,
    acl: bool,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut client = reporting.open()?;
    let before: Shares = client.call(&Call::Shares {})?;
    let with_private = how.include_private == Some(true);
    let dir = &Named::from_local(dir);
    let call = how.call(dir.clone());
    let mut shares = add_with_access(&mut client, &call, dir.as_local(), with_private, acl)?;
    if io::stderr().is_terminal() {
        shares = follow_hashing(&mut client, dir, shares)?;
    }
    if reporting.json {
        return output.json(&shares);
    }
    if let (Some(before), Some(now)) = (share_of(&before, dir), share_of(&shares, dir)) {
        print_changes(before, now, output)?;
    }
    match share_of(&shares, dir) {
        Some(share) => print_one("", share, output),
        None => print(&shares, output),
    }
}

/// Makes the daemon share a folder. If the daemon cannot reach the folder, asks whether to set the
/// missing ACLs, sets them and calls the daemon again. With `acl`, sets the missing ACLs without a
/// question, even if the daemon can reach the folder.
fn add_with_access(
    client: &mut Client,
    call: &Call,
    dir: &Path,
    with_private: bool,
    acl: bool,
) -> Result<Shares, CliError> {
    let missing = MissingAccess::find(dir, client.daemon_uid()?, with_private);
    let refused = match client.call(call) {
        Ok(shares) if !acl => {
            access::depend_on_others(dir)?;
            return Ok(shares);
        }
        Ok(_) => None,
        Err(ClientError::Refused(failure)) if failure.kind == FailureKind::Failed => Some(failure),
        Err(error) => return Err(error.into()),
    };
    match (missing, refused) {
        (Some(missing), refused) => {
            access::refuse_private(dir, with_private)?;
            if refused.is_some() && !acl {
                missing.ask()?;
            }
            missing.grant()?;
        }
        (None, Some(failure)) => return Err(ClientError::Refused(failure).into()),
        (None, None) => {}
    }
    let shares = client.call(call).inspect_err(|_| {
        // If the withdrawal fails, too, the command still reports the error of the call.
        let _kept = access::withdraw(dir);
    })?;
    access::depend_on_others(dir)?;
    Ok(shares)
}

fn share_of<'a>(shares: &'a Shares, dir: &Named) -> Option<&'a ShareInfo> {
    shares.shares.iter().find(|share| share.dir == *dir)
}

/// Prints the changes of a folder that was shared before.
fn print_changes(before: &ShareInfo, now: &ShareInfo, output: &mut Output) -> Result<(), CliError> {
    let how = |share: &ShareInfo| {
        let included = |it: bool, what: &str| format!("{what} {}", if it { "in" } else { "out" });
        let patterns = share.exclude.iter().map(|it| printable(it));
        let patterns: Vec<_> = patterns.collect();
        [
            place(share),
            readers(share),
            included(share.include_private, "private files"),
            included(share.legacy, "legacy peers"),
            format!("excluded: {}", patterns.join(", ")),
            included(!share.default_excludes, "files excluded by default"),
            access(share).to_owned(),
        ]
    };
    let pairs = how(before).into_iter().zip(how(now));
    let changed = pairs.filter(|(before, now)| before != now);
    let mut said: Vec<String> = changed
        .map(|(before, now)| format!("{now} (before: {before})"))
        .collect();
    if said.is_empty() {
        said.push("as before".to_owned());
    }
    let dir = escape(now.dir.as_bytes());
    let line = format!("{dir} was shared already, and is now {}", said.join("; "));
    output.paragraph("", &line)
}

/// Describes which programs and nodes can replace the files of a share.
fn access(share: &ShareInfo) -> &'static str {
    match (share.writable, share.open) {
        (true, true) => "writable",
        (true, false) => "writable, closed to other nodes",
        (false, true) => "open to other nodes",
        (false, false) => "read-only",
    }
}

/// Shows how much of a share the daemon has read, until the share is completely listed. If the user
/// interrupts this command, the daemon continues to read.
fn follow_hashing(client: &mut Client, dir: &Named, first: Shares) -> Result<Shares, CliError> {
    let bar = progress::of_read();
    let mut shares = first;
    let begun_bytes = shares.read_bytes;
    loop {
        let Some(share) = share_of(&shares, dir).filter(|share| is_being_read(share)) else {
            bar.finish_and_clear();
            return Ok(shares);
        };
        let read_bytes = shares.read_bytes.saturating_sub(begun_bytes);
        let whole_bytes = share.bytes + share.pending_bytes;
        let done_bytes = read_bytes.clamp(share.bytes, whole_bytes);
        bar.set_message(files_read(share));
        progress::show(&bar, done_bytes, whole_bytes);
        thread::sleep(LOOK_PERIOD);
        shares = client.call(&Call::Shares {})?;
    }
}

/// Counts the files that were read and those that were found so far.
fn files_read(share: &ShareInfo) -> String {
    let found = share.files + share.pending_files;
    format!("{} of {}", share.files, write_count(found, "file", "files"))
}

fn is_being_read(share: &ShareInfo) -> bool {
    share.state == ShareState::Scanning
}

/// Returns the real path of the folder, so that it has only one name.
pub(super) fn folder(dir: &Path) -> Result<PathBuf, CliError> {
    let (why, remedy) = match reach(dir) {
        Ok(reached) => return Ok(reached.path().to_owned()),
        Err(WayError::Planted(link)) => (
            link.to_string(),
            "share the folder that it leads to by its own name",
        ),
        Err(WayError::System(error)) if error.kind() == io::ErrorKind::NotADirectory => (
            "it is not a folder".to_owned(),
            "share the folder that holds it",
        ),
        Err(WayError::System(error)) => (error.to_string(), "name a folder that is there"),
    };
    Err(CliError::new(
        format!("cannot share {}: {why}", dir.display()),
        remedy,
    ))
}

fn print(shares: &Shares, output: &mut Output) -> Result<(), CliError> {
    if shares.shares.is_empty() && shares.missing.is_empty() {
        return output.line("nothing is shared; to share a folder: p2pfs share add DIR");
    }
    for share in &shares.shares {
        print_one("", share, output)?;
    }
    for missing in &shares.missing {
        let (dir, why) = (escape(missing.path.as_bytes()), printable(&missing.why));
        output.paragraph("", &format!("{dir}  is not shared: {why}"))?;
    }
    Ok(())
}

/// Describes the place of a share.
fn place(share: &ShareInfo) -> String {
    match &share.place {
        Some(place) => format!("as {}", printable(place)),
        None => "at the top".to_owned(),
    }
}

/// Describes the readers of a share.
pub(super) fn readers(share: &ShareInfo) -> String {
    let Some(readers) = &share.readers else {
        return "to every member".to_owned();
    };
    let (former, readers): (Vec<_>, Vec<_>) = readers.iter().partition(|it| it.former);
    let (meant, nobody): (Vec<_>, Vec<_>) = readers.iter().partition(|it| it.node.is_some());
    let list = |readers: Vec<&ShareReader>| {
        let names = readers.iter().map(|it| printable(&it.reader));
        names.collect::<Vec<_>>().join(", ")
    };
    let mut said = if meant.is_empty() {
        "to no other node".to_owned()
    } else {
        format!("to {} alone", list(meant))
    };
    if !nobody.is_empty() {
        let unknown = list(nobody);
        said.push_str(&format!(
            "; not to {unknown}: no member, or more than one, has that name"
        ));
    }
    if !former.is_empty() {
        let names = list(former);
        said.push_str(&format!(
            "; not to {names}: named in an earlier cluster, and not confirmed (p2pfs status)"
        ));
    }
    said
}

/// Prints a share in a few lines, the first one after `lead`.
pub(super) fn print_one(
    lead: &str,
    share: &ShareInfo,
    output: &mut Output,
) -> Result<(), CliError> {
    let mut said = vec![format!(
        "{}, {}",
        write_count(share.files, "file", "files"),
        human_bytes(share.bytes)
    )];
    match share.state {
        ShareState::Scanning => said.push("being read".to_owned()),
        ShareState::Unreadable => said.push("cannot be read".to_owned()),
        ShareState::Ready => {}
    }
    if share.pending_files > 0 {
        said.push(format!(
            "{}, {}, waiting to be hashed",
            write_count(share.pending_files, "file", "files"),
            human_bytes(share.pending_bytes)
        ));
    }
    if share.include_private {
        said.push("private files included".to_owned());
    }
    if share.legacy {
        said.push("for legacy peers too".to_owned());
    }
    if share.writable || share.open {
        said.push(access(share).to_owned());
    }
    let at = share
        .place
        .iter()
        .map(|it| format!("  as {}", printable(it)));
    let at = at.collect::<String>();
    let line = format!("{}{at}  {}", escape(share.dir.as_bytes()), said.join(", "));
    output.paragraph(lead, &line)?;
    if share.readers.is_some() {
        output.paragraph("  ", &readers(share))?;
    }
    if share.left_out_files > 0 {
        let why = format!(
            "{} left out: not readable by others, links that lead out, or special files",
            share.left_out_files
        );
        output.paragraph("  ", &why)?;
    }
    if share.excluded_files > 0 {
        let kept_back = format!("excluded by patterns: {}", share.excluded_files);
        output.paragraph("  ", &kept_back)?;
    }
    for problem in &share.problems {
        let name = escape(problem.path.as_bytes());
        output.paragraph("  ", &format!("{name}: {}", printable(&problem.why)))?;
    }
    Ok(())
}
