//! `p2pfs send` and `p2pfs say`: files and messages for other nodes.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::{io, mem};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueHint};
use clap_complete::ArgValueCompleter;
use rustix::fs::{OFlags, ResolveFlags, fstatfs};
use rustix::io::Errno;
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
use p2pfs_types::files::trusted_way::{ReachedDir, open, open_beneath, open_file, reach, regular};
use p2pfs_types::files::{opened_anew, path_of};
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
    let (files, left_out) = (mem::take(&mut named.files), mem::take(&mut named.left_out));
    if let Some(line) = tell_left_out(&left_out) {
        remark(line);
    }
    if files.is_empty() {
        return Err(no_files(left_out.len()));
    }
    // Connects before the first file is opened, so that none is copied if the daemon does not run.
    options.reporting.open_patiently()?;
    let mut reports = Vec::new();
    for file in files {
        let done = send_one(options, &named, &file)?;
        let path = Named::from_local(&file.path);
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
    files: Vec<CollectedFile>,
    left_out: Vec<LeftOutEntry>,
}

/// A file to send. Long after it was found, it is opened for its turn.
struct CollectedFile {
    /// Path that is shown.
    path: PathBuf,
    /// The directory that was named and the path of the file in it. `None` if the file itself was
    /// named.
    within: Option<(Rc<ReachedDir>, SharedPath)>,
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
        let opened = open(path, OFlags::PATH).map_err(io::Error::from);
        let found = opened.and_then(|opened| opened.metadata());
        let found = found.map_err(|error| unreadable(path, &error))?;
        if found.is_file() {
            self.files.push(CollectedFile {
                path: path.to_path_buf(),
                within: None,
            });
            return Ok(());
        }
        if !found.is_dir() {
            let name = escape(path.as_os_str().as_encoded_bytes());
            let message = format!("{name} is not a file or directory");
            return Err(CliError::new(message, "name one that is"));
        }
        let top = reach(path).map_err(|error| unreadable(path, &error.into()))?;
        self.collect_within(path, &Rc::new(top), &SharedPath::root())
    }

    /// Adds the files of a directory. `within` is its path in the named directory `top`. An inbox is
    /// shared like any folder, so what a share of that directory would leave out is not sent.
    fn collect_within(
        &mut self,
        dir: &Path,
        top: &Rc<ReachedDir>,
        within: &SharedPath,
    ) -> Result<(), CliError> {
        let unreadable = |error: io::Error| unreadable(dir, &error);
        let opened = open_within(top, within, OFlags::DIRECTORY).map_err(unreadable)?;
        let entries = std::fs::read_dir(path_of(&opened)).map_err(unreadable)?;
        let entries: Result<Vec<_>, _> = entries.collect();
        let mut entries = entries.map_err(unreadable)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let path = dir.join(&name);
            // Does not follow a link.
            let found = entry.metadata().map_err(unreadable)?;
            match self.rule.check(within, name.as_bytes(), &found) {
                Ok(_) if found.is_symlink() => self.leave_out(&path, "it is a link"),
                Ok(within) if found.is_dir() => self.collect_within(&path, top, &within)?,
                Ok(within) => self.files.push(CollectedFile {
                    path,
                    within: Some((top.clone(), within)),
                }),
                Err(why) => self.leave_out(&path, why),
            }
        }
        Ok(())
    }

    /// Opens a collected file. Another user may have replaced it since it was found.
    ///
    /// # Errors
    /// The error of the system, and `InvalidInput` if it is a link now, is not a regular file, or
    /// would be left out.
    fn open(&self, file: &CollectedFile) -> io::Result<File> {
        let replaced = |why: &dyn Display| {
            let said = format!("it was replaced since it was found: {why}");
            io::Error::new(io::ErrorKind::InvalidInput, said)
        };
        let Some((top, within)) = &file.within else {
            return Ok(open_file(&file.path)?);
        };
        let opened = match open_within(top, within, OFlags::NONBLOCK | OFlags::NOCTTY) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                return Err(replaced(&"a link is on its path"));
            }
            opened => regular(opened?)?,
        };
        let directory = within.parent().unwrap_or_else(SharedPath::root);
        let checked = self
            .rule
            .check(&directory, within.file_name(), &opened.metadata()?);
        checked.map(|_| opened).map_err(|why| replaced(&why))
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

fn send_one(
    options: &SendOptions,
    named: &Collected,
    file: &CollectedFile,
) -> Result<SendDone, CliError> {
    let path = &*file.path;
    let opened = named.open(file).and_then(readable);
    let file = opened.map_err(|error| unreadable(path, &error))?;
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

/// Opens a directory or file within a named directory, through no link.
fn open_within(top: &ReachedDir, within: &SharedPath, flags: OFlags) -> io::Result<File> {
    let path = if within.is_root() {
        Path::new(".")
    } else {
        within.as_local()
    };
    let opened = open_beneath(
        top.dir(),
        path,
        OFlags::RDONLY | flags,
        ResolveFlags::empty(),
    );
    Ok(File::from(opened?))
}

/// Returns the file, or a copy of it if it is in a FUSE filesystem. This filesystem may be the
/// daemon's own mount, which the daemon must not read through the kernel.
fn readable(mut file: File) -> io::Result<File> {
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

    fn paths(named: &Collected) -> Vec<&Path> {
        named.files.iter().map(|file| &*file.path).collect()
    }

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
        assert_eq!(paths(&named), [at("a"), at("b"), at("d/c")]);
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
        assert_eq!(paths(&named), [at(".hidden")]);
        let omitted = ["a~", "closed", "d/.env", "d/.ssh", "private"].map(at);
        assert_eq!(left_out(&named), omitted);
        let line = tell_left_out(&named.left_out).unwrap();
        assert!(line.starts_with("5 left out"), "{line}");
        for why in ["a pattern excludes it", "others may not read it"] {
            assert!(line.contains(why), "{line}");
        }
        named.collect(&at("private")).unwrap();
        named.collect(&at("closed")).unwrap();
        assert_eq!(paths(&named)[1..], [at("private"), at("closed/c")]);
        for file in &named.files {
            named.open(file).unwrap();
        }
    }

    #[test]
    fn file_that_is_replaced_after_the_listing_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let private = at("private");
        std::fs::create_dir_all(at("top/d")).unwrap();
        std::fs::write(&private, "private").unwrap();
        let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&private, mode(0o600)).unwrap();
        let names = ["closed", "d/below", "fifo", "hard", "link"];
        for name in names {
            std::fs::write(at("top").join(name), name).unwrap();
        }
        let mut named = Collected::new();
        named.collect(&at("top")).unwrap();
        let within = |name: &str| at("top").join(name);
        assert_eq!(paths(&named), names.map(within));
        for name in ["fifo", "hard", "link"] {
            std::fs::remove_file(within(name)).unwrap();
        }
        std::os::unix::fs::symlink(&private, within("link")).unwrap();
        std::fs::hard_link(&private, within("hard")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, within("fifo"), fifo, 0o644.into(), 0).unwrap();
        std::fs::set_permissions(within("closed"), mode(0o600)).unwrap();
        std::fs::rename(within("d"), at("aside")).unwrap();
        std::fs::create_dir(at("elsewhere")).unwrap();
        std::fs::write(at("elsewhere/below"), "private").unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), within("d")).unwrap();
        for file in &named.files {
            let refused = named.open(file).unwrap_err();
            assert_eq!(
                refused.kind(),
                io::ErrorKind::InvalidInput,
                "{:?}: {refused}",
                file.path
            );
        }
        // The named directory stays the one that was listed.
        std::fs::rename(at("top"), at("moved")).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("top")).unwrap();
        std::fs::remove_file(at("moved/d")).unwrap();
        std::fs::rename(at("aside"), at("moved/d")).unwrap();
        let mut text = String::new();
        let mut below = named.open(&named.files[1]).unwrap();
        io::Read::read_to_string(&mut below, &mut text).unwrap();
        assert_eq!(text, "d/below");
    }

    #[test]
    fn named_file_behind_a_link_of_another_user_is_not_sent() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give a folder away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("bob")).unwrap();
        std::os::unix::fs::chown(at("bob"), Some(1234), None).unwrap();
        std::fs::write(at("private"), "private").unwrap();
        std::fs::write(at("bob/file"), "of bob").unwrap();
        std::os::unix::fs::symlink("../private", at("bob/link")).unwrap();
        std::os::unix::fs::symlink("..", at("bob/above")).unwrap();
        let mut named = Collected::new();
        for name in ["bob/link", "bob/above", "bob/above/private"] {
            let refused = named.collect(&at(name)).unwrap_err().to_string();
            assert!(refused.contains("user 1234 owns"), "{refused}");
        }
        named.collect(&at("bob/file")).unwrap();
        std::fs::remove_file(at("bob/file")).unwrap();
        std::os::unix::fs::symlink("../private", at("bob/file")).unwrap();
        assert!(named.open(&named.files[0]).is_err());
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
