//! `p2pfs send` and `p2pfs say`: files and messages for other nodes.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueHint};
use clap_complete::ArgValueCompleter;
use rustix::fs::fstatfs;
use serde::Serialize;

use super::complete;
use super::connect::Reporting;
use super::error::CliError;
use super::output::Output;
use super::progress;
use super::remark;
use super::text::{escape, human_bytes, printable};
use crate::daemon::control::{Call, ClientError, FailureKind, Named, Said, SendDone, SendProgress};
use p2pfs_node::api::DefaultOfferRule;
use p2pfs_types::file_name::{received_name, sent_name};
use p2pfs_types::files::opened_anew;
use p2pfs_types::path::SharedPath;

/// Type of a FUSE filesystem in statfs(2) (linux/magic.h).
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;

/// The arguments of `p2pfs send`.
#[derive(Debug, Clone, Args)]
pub struct SendOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// Files, and directories, which go as the files in them that a share would list
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    files: Vec<OsString>,
    /// The receivers, by name, key or its start, ID or address [default: all]
    #[arg(long, value_name = "NODE", num_args = 1..)]
    #[arg(add = ArgValueCompleter::new(complete::peers))]
    to: Vec<String>,
}

/// The arguments of `p2pfs say`.
#[derive(Debug, Clone, Args)]
pub struct SayOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The message; several words are one line
    #[arg(required = true, value_name = "TEXT")]
    #[arg(value_parser = OsStringValueParser::new().try_map(utf_8))]
    text: Vec<String>,
}

/// Converts a word of the message to text. An argument may be any bytes, but a message is UTF-8.
fn utf_8(said: OsString) -> Result<String, String> {
    let refused = |_| "a chat line must be UTF-8 text, and this is not".to_owned();
    said.into_string().map_err(refused)
}

/// Maximum number of omitted directory entries that are named; the others are counted.
const LEFT_OUT_TOLD_MAX: usize = 5;

/// Result of sending one file, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    path: Named,
    #[serde(flatten)]
    done: SendDone,
}

pub(super) fn send(options: &SendOptions, output: &mut Output) -> Result<(), CliError> {
    let mut named = Collected::new();
    for file in &options.files {
        named.collect(Path::new(file))?;
    }
    let Collected {
        files, left_out, ..
    } = named;
    if let Some(line) = tell_left_out(&left_out) {
        remark(line);
    }
    if files.is_empty() {
        return Err(no_files(left_out.len()));
    }
    // Connects before the first file is opened, so that none is copied if the daemon does not run.
    options.reporting.open_patiently()?;
    let mut reports = Vec::new();
    for path in files {
        let done = send_one(options, &path)?;
        let path = Named::from_local(&path);
        if !options.reporting.json {
            tell(&path, &done, output)?;
        }
        reports.push(Report { path, done });
    }
    if options.reporting.json {
        output.json(&serde_json::json!({ "files": reports, "left_out": left_out }))?;
    }
    output.flush()?;
    if let Some(line) = tell_public(&reports).filter(|_| !options.reporting.json) {
        remark(line);
    }
    failure(&reports).map_or(Ok(()), Err)
}

/// An entry of a directory that is not sent, as `--json` prints it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct LeftOutEntry {
    #[serde(flatten)]
    path: Named,
    why: String,
}

/// Files collected from the arguments.
struct Collected {
    rule: DefaultOfferRule,
    /// Regular files; those of a directory are sorted by name.
    files: Vec<PathBuf>,
    left_out: Vec<LeftOutEntry>,
}

impl Collected {
    fn new() -> Self {
        Self {
            rule: DefaultOfferRule::compile(),
            files: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Adds a file that was named, whatever it is called, or the files of a named directory.
    fn collect(&mut self, path: &Path) -> Result<(), CliError> {
        let found = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        if found.is_file() {
            self.files.push(path.to_path_buf());
            return Ok(());
        }
        if !found.is_dir() {
            let name = escape(path.as_os_str().as_encoded_bytes());
            let message = format!("{name} is not a file or directory");
            return Err(CliError::new(message, "name one that is"));
        }
        self.collect_within(path, &SharedPath::root())
    }

    /// Adds the files of a directory. `within` is its path in the named directory. An inbox is
    /// shared like any folder, so what a share of that directory would leave out is not sent.
    fn collect_within(&mut self, dir: &Path, within: &SharedPath) -> Result<(), CliError> {
        let unreadable = |error: io::Error| unreadable(dir, &error);
        let entries: Result<Vec<_>, _> = std::fs::read_dir(dir).map_err(unreadable)?.collect();
        let mut entries = entries.map_err(unreadable)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            // Does not follow a link.
            let found = entry.metadata().map_err(unreadable)?;
            match self.rule.check(within, name.as_bytes(), &found) {
                Ok(_) if found.is_symlink() => self.leave_out(&path, "it is a link"),
                Ok(within) if found.is_dir() => self.collect_within(&path, &within)?,
                Ok(_) => self.files.push(path),
                Err(why) => self.leave_out(&path, why),
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, why: impl ToString) {
        self.left_out.push(LeftOutEntry {
            path: Named::from_local(path),
            why: why.to_string(),
        });
    }
}

/// Counts the omitted entries and names the first ones. Returns `None` if there are none.
fn tell_left_out(left_out: &[LeftOutEntry]) -> Option<String> {
    let named = left_out.iter().take(LEFT_OUT_TOLD_MAX);
    let names = named.map(|it| format!("{} ({})", escape(it.path.as_bytes()), it.why));
    let mut names: Vec<String> = names.collect();
    match left_out.len().checked_sub(LEFT_OUT_TOLD_MAX) {
        None if names.is_empty() => return None,
        None | Some(0) => {}
        Some(more) => names.push(format!("and {more} more")),
    }
    let count = left_out.len();
    Some(format!(
        "{count} left out, as in a share: {}; a file that is named itself is sent",
        names.join(", ")
    ))
}

/// Returns the error for named paths without a file to send. `left_out` is the number of omitted
/// entries.
fn no_files(left_out: usize) -> CliError {
    if left_out == 0 {
        return CliError::new(
            "cannot send anything: the named paths contain no file",
            "name a file, or a directory with some",
        );
    }
    CliError::new(
        format!("cannot send anything: every entry of the named paths was left out ({left_out})"),
        "name the files themselves, or let others read them (chmod o+r)",
    )
}

/// Warns that every member can read the files in the inboxes that received them. Returns `None` if
/// no inbox received a file.
fn tell_public(reports: &[Report]) -> Option<String> {
    let taken = reports.iter().flat_map(|report| &report.done.taken);
    let confirmed = taken.filter(|taken| taken.confirmed);
    let mut peers: Vec<String> = confirmed.map(|taken| printable(&taken.peer)).collect();
    peers.sort();
    peers.dedup();
    let line = "every member of the cluster can now read this in the inbox of";
    (!peers.is_empty()).then(|| format!("{line} {}", peers.join(", ")))
}

fn unreadable(path: &Path, error: &io::Error) -> CliError {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "name a file that is there; who is to have it comes after --to",
        _ => "name a file that you may read",
    };
    let name = escape(path.as_os_str().as_encoded_bytes());
    CliError::new(format!("cannot send {name}: {error}"), remedy)
}

fn send_one(options: &SendOptions, path: &Path) -> Result<SendDone, CliError> {
    let file = readable(path).map_err(|error| unreadable(path, &error))?;
    // Connects after `readable`, because the daemon closes a connection that is idle during a long
    // copy.
    let mut client = options.reporting.open_patiently()?;
    let call = Call::Send {
        name: Named::from_local(path),
        to: options.to.clone(),
    };
    client.start_with(&call, &file)?;
    let bar = progress::of_copied(0);
    loop {
        let reply = client
            .next_reply()
            .map_err(|error| broken_off(error, path))?;
        if !reply.continues {
            bar.finish_and_clear();
            return Ok(reply.decode()?);
        }
        let sent: SendProgress = reply.decode()?;
        let sent_bytes = sent.peers.iter().map(|peer| peer.sent_bytes).sum();
        let all_bytes = sent.size_bytes * sent.peers.len() as u64;
        progress::show(&bar, sent_bytes, all_bytes);
    }
}

/// Converts an error of a transfer. If the daemon ended, the file is not sent again automatically.
/// Otherwise the file would arrive twice if only its confirmation was lost.
fn broken_off(error: ClientError, path: &Path) -> CliError {
    let ends = match &error {
        ClientError::Closed => true,
        ClientError::Refused(failure) => failure.kind == FailureKind::Stopping,
        _ => false,
    };
    if !ends {
        return error.into();
    }
    let name = escape(path.as_os_str().as_encoded_bytes());
    CliError::new(
        format!("the daemon ended while it sent {name}"),
        "send it again: who has not the whole of it has nothing of it",
    )
}

/// Opens the file, or a copy of it if it is in a FUSE filesystem. This filesystem may be the
/// daemon's own mount, which the daemon must not read through the kernel.
fn readable(path: &Path) -> io::Result<File> {
    let mut file = File::open(path)?;
    if u64::try_from(fstatfs(&file)?.f_type) != Ok(FUSE_SUPER_MAGIC) {
        return Ok(file);
    }
    let mut copy = tempfile::tempfile()?;
    io::copy(&mut file, &mut copy)?;
    // The new descriptor is read-only and begins at the first byte of the copy.
    opened_anew(&copy)
}

fn tell(path: &Named, done: &SendDone, output: &mut Output) -> Result<(), CliError> {
    let (name, size) = (escape(path.as_bytes()), human_bytes(done.size_bytes));
    for taken in &done.taken {
        let peer = printable(&taken.peer);
        let kept = taken.kept_as.as_deref();
        let kept = kept.map_or_else(String::new, |kept| tell_kept(path, kept));
        let line = if taken.confirmed {
            format!("{peer} has {name} ({size}){kept}")
        } else {
            format!("{peer} was sent {name} ({size})")
        };
        output.line(&line)?;
    }
    Ok(())
}

/// Describes the name `kept` that the receiver gave the file. It differs from the name here because
/// that name is not allowed at a receiver, or because the receiver already had a file of that name.
fn tell_kept(path: &Named, kept: &str) -> String {
    let plain = received_name(&sent_name(path.as_bytes())).unwrap_or_default();
    let told = printable(kept);
    if kept.as_bytes() == plain {
        format!(" as {told}")
    } else {
        format!(" as {told}: a file of that name was there")
    }
}

/// Lists the failed peers and files in one line.
fn failure(reports: &[Report]) -> Option<CliError> {
    let failed = reports.iter().flat_map(|report| {
        let name = escape(report.path.as_bytes());
        report.done.failed.iter().map(move |failed| {
            let (peer, why) = (printable(&failed.peer), printable(&failed.why));
            format!("{peer} did not take {name}: {why}")
        })
    });
    let failed: Vec<String> = failed.collect();
    (!failed.is_empty()).then(|| CliError::plain(failed.join("; ")))
}

pub(super) fn send_chat(options: &SayOptions, output: &mut Output) -> Result<(), CliError> {
    let text = options.text.join(" ");
    let said: Said = options.reporting.open()?.call(&Call::Say { text })?;
    if options.reporting.json {
        return output.json(&said);
    }
    let names: Vec<String> = said.peers.iter().map(|peer| printable(peer)).collect();
    output.line(&format!("heard by {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_sent_as_its_files_in_order_without_links_and_pipes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        for name in ["b", "a", "d/c"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        let mut named = Collected::new();
        named.collect(folder.path()).unwrap();
        assert_eq!(named.files, [at("a"), at("b"), at("d/c")]);
        assert_eq!(left_out(&named), [at("link")]);
        let error = named.collect(&at("nothing")).unwrap_err();
        assert!(error.to_string().contains("--to"), "{error}");
        assert!(named.collect(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn entries_that_a_share_leaves_out_are_sent_only_if_they_are_named_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for dir in ["d", "d/.ssh", "closed"] {
            std::fs::create_dir(at(dir)).unwrap();
        }
        for name in [
            ".hidden",
            "a~",
            "d/.env",
            "d/.ssh/config",
            "closed/c",
            "private",
        ] {
            std::fs::write(at(name), name).unwrap();
        }
        for (name, mode) in [("closed", 0o700), ("private", 0o600)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(at(name), mode).unwrap();
        }
        let mut named = Collected::new();
        named.collect(folder.path()).unwrap();
        assert_eq!(named.files, [at(".hidden")]);
        let omitted = ["a~", "closed", "d/.env", "d/.ssh", "private"].map(at);
        assert_eq!(left_out(&named), omitted);
        let line = tell_left_out(&named.left_out).unwrap();
        assert!(line.starts_with("5 left out"), "{line}");
        for why in ["a pattern excludes it", "others may not read it"] {
            assert!(line.contains(why), "{line}");
        }
        named.collect(&at("private")).unwrap();
        named.collect(&at("closed")).unwrap();
        assert_eq!(named.files[1..], [at("private"), at("closed/c")]);
    }

    #[test]
    fn an_empty_directory_and_one_with_only_left_out_entries_have_different_errors() {
        let empty = no_files(0).to_string();
        assert!(empty.contains("contain no file"), "{empty}");
        let left_out = no_files(3).to_string();
        assert!(!left_out.contains("contain no file"), "{left_out}");
        assert!(left_out.contains("was left out (3)"), "{left_out}");
        assert!(left_out.contains("name the files themselves"), "{left_out}");
    }

    fn left_out(named: &Collected) -> Vec<PathBuf> {
        let paths = named.left_out.iter().map(|it| it.path.as_bytes());
        let paths = paths.map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path)));
        paths.collect()
    }

    #[test]
    fn unsent_parts_of_a_directory_are_counted_and_reported_in_one_line() {
        let entry = || LeftOutEntry {
            path: Named::new("a\nb"),
            why: "it is a link".to_owned(),
        };
        let told = |count| tell_left_out(&(0..count).map(|_| entry()).collect::<Vec<_>>());
        assert_eq!(told(0), None);
        let line = told(7).unwrap();
        assert!(
            line.starts_with("7 left out") && line.contains(", and 2 more;"),
            "{line}"
        );
        assert!(!line.contains('\n'), "{line}");
        assert!(!told(5).unwrap().contains("more"));
    }

    #[test]
    fn a_sent_file_is_called_readable_for_all_members_once_an_inbox_has_it() {
        let report = |confirmed| {
            let taken = serde_json::json!({"peer": "lab", "confirmed": confirmed});
            let done = serde_json::json!({"size_bytes": 1, "taken": [taken], "failed": []});
            Report {
                path: Named::new("f"),
                done: serde_json::from_value(done).unwrap(),
            }
        };
        assert_eq!(tell_public(&[report(false)]), None);
        let line = tell_public(&[report(true), report(true)]).unwrap();
        assert!(
            line.starts_with("every member") && line.ends_with(" lab"),
            "{line}"
        );
    }

    #[test]
    fn nodes_that_refused_are_named_in_one_line() {
        let done = |failed: &[&str]| SendDone {
            failed: failed
                .iter()
                .map(|peer| crate::daemon::control::NotTakenBy {
                    peer: (*peer).to_owned(),
                    why: "no\nroom".to_owned(),
                })
                .collect(),
            ..SendDone::default()
        };
        let report = |failed: &[&str]| Report {
            path: Named::new("f"),
            done: done(failed),
        };
        assert!(failure(&[report(&[])]).is_none());
        let error = failure(&[report(&["a"]), report(&["b\x1b"])]).unwrap();
        let expected = "a did not take f: no\\nroom; b\\u{1b} did not take f: no\\nroom";
        assert_eq!(error.to_string(), expected);
    }
}
