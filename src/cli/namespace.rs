//! `p2pfs ls` and `p2pfs why`: shared files, and the reasons for what a name shows.

use std::ffi::OsString;

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::complete;
use super::connect::Reporting;
use super::error::CliError;
use super::mine;
use super::names::shared_name;
use super::output::{Colour, NameOptions, Output};
use super::restore;
use super::text::{escape, escape_path, human_bytes, local_time, percent, printable};
use crate::daemon::control::{
    Call, Client, EntryKind, Listing, LsEntry, Named, Plane, Provenance, VersionInfo,
};

/// Maximum number of unhashed files of this node that `ls` names in its last line.
const UNREAD_SHOWN_MAX: usize = 5;
/// Columns for the names of holders in a line of `ls -l`.
const HOLDERS_COLUMNS: usize = 16;

/// The arguments of `p2pfs ls`.
#[derive(Debug, Clone, Args)]
pub struct LsOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// A directory or a file [default: the current directory in the mount, else all]
    #[arg(add = ArgValueCompleter::new(complete::shared_names))]
    path: Option<OsString>,
    /// Show size, time, holders and how much is cached
    #[arg(short, long, conflicts_with_all = ["null", "raw"])]
    long: bool,
    /// Show instead the files that this machine offers, and their readers
    #[arg(long, conflicts_with_all = ["path", "long"])]
    mine: bool,
    /// Show instead what was deleted or replaced at and below the path, and can be restored
    #[arg(long, conflicts_with_all = ["mine", "long", "null", "raw"])]
    deleted: bool,
    #[command(flatten)]
    names: NameOptions,
}

/// The arguments of `p2pfs why`.
#[derive(Debug, Clone, Args)]
pub struct WhyOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// A file or directory of the shared folder
    #[arg(add = ArgValueCompleter::new(complete::shared_names))]
    path: OsString,
}

pub(super) fn ls(options: &LsOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open()?;
    if options.mine {
        return mine::print(&mut client, options.reporting.json, options.names, output);
    }
    let here = OsString::from(".");
    let path = shared_name(&mut client, options.path.as_ref().unwrap_or(&here))?;
    if options.deleted {
        return restore::list(&mut client, path, options.reporting.json, output);
    }
    let listing = whole_listing(&mut client, &path)?;
    let (entries, being_read) = (&listing.entries, &listing.being_read);
    if options.reporting.json {
        let json = serde_json::json!({"entries": entries, "being_read": being_read});
        return output.json(&json);
    }
    if options.long {
        print_long(&listing, &path, output)?;
    } else {
        for entry in entries {
            print_short(entry, &path, options.names, output)?;
        }
    }
    let is_for_people = output.is_terminal() && !options.names.are_bytes();
    if !being_read.is_empty() && is_for_people && !options.long {
        let some: Vec<String> = (being_read.iter().take(UNREAD_SHOWN_MAX))
            .map(|unread| escape(beneath(unread, &path)))
            .collect();
        let (some, count) = (some.join(", "), being_read.len());
        output.paragraph(
            "being read: ",
            &format!("{count}, to be listed soon: {some}"),
        )?;
    }
    Ok(())
}

/// Returns all pages as one listing.
fn whole_listing(client: &mut Client, path: &Named) -> Result<Listing, CliError> {
    let mut whole = Listing::default();
    loop {
        let after = whole.entries.last().map(|entry| entry.path.clone());
        let page: Listing = client.call(&Call::Ls {
            path: path.clone(),
            after,
        })?;
        let done = !page.more || page.entries.is_empty();
        whole.entries.extend(page.entries);
        whole.being_read.extend(page.being_read);
        if done {
            return Ok(whole);
        }
    }
}

/// Returns the name of an entry within the requested directory.
fn name_within<'a>(entry: &'a LsEntry, directory: &Named) -> &'a [u8] {
    beneath(&entry.path, directory)
}

fn beneath<'a>(path: &'a Named, directory: &Named) -> &'a [u8] {
    let path = path.as_bytes();
    let prefix = directory.as_bytes();
    match path.strip_prefix(prefix) {
        Some(rest) if prefix.is_empty() => rest,
        Some([b'/', rest @ ..]) => rest,
        _ => path,
    }
}

fn print_short(
    entry: &LsEntry,
    directory: &Named,
    names: NameOptions,
    output: &mut Output,
) -> Result<(), CliError> {
    let name = name_within(entry, directory);
    if !output.is_terminal() || names.are_bytes() {
        return output.name(name, names);
    }
    output.line(&shown(name, entry.kind, output))
}

fn shown(name: &[u8], kind: EntryKind, output: &Output) -> String {
    let escaped = escape(name);
    match kind {
        EntryKind::File => escaped,
        EntryKind::Symlink => format!("{escaped}@"),
        EntryKind::Directory => format!("{}/", output.paint(&escaped, Colour::Blue)),
    }
}

fn print_long(listing: &Listing, directory: &Named, output: &mut Output) -> Result<(), CliError> {
    let size = |entry: &LsEntry| match (entry.kind, output.is_terminal()) {
        (EntryKind::Directory | EntryKind::Symlink, _) => "-".to_owned(),
        (EntryKind::File, true) => human_bytes(entry.size_bytes),
        (EntryKind::File, false) => entry.size_bytes.to_string(),
    };
    let rows = listing.entries.iter().map(|entry| {
        let cached = match entry.kind {
            EntryKind::Directory | EntryKind::Symlink => "-".to_owned(),
            EntryKind::File => percent(entry.cached_bytes, entry.size_bytes),
        };
        let mark = match entry.plane {
            Plane::Legacy => " legacy",
            Plane::Native if entry.pinned => " pinned",
            Plane::Native | Plane::Mesh => "",
        };
        vec![
            mode(entry).to_owned(),
            size(entry),
            local_time(entry.modified),
            format!("{cached}{mark}"),
            with_copies(entry, &some_holders(&entry.holders)),
            shown(name_within(entry, directory), entry.kind, output),
        ]
    });
    let unread = listing.being_read.iter().map(|path| {
        let said = ["-r--", "-", "-", "being read", ""].map(str::to_owned);
        let name = escape(beneath(path, directory));
        said.into_iter().chain([name]).collect()
    });
    let rows: Vec<_> = rows.chain(unread).collect();
    output.table(
        &["MODE", "SIZE", "MODIFIED", "CACHED", "HOLDERS", "NAME"],
        &[1, 3],
        rows,
    )
}

/// Returns the names of the holders behind the number of complete copies, each byte proven. A
/// column of its own would not fit into 80 columns.
fn with_copies(entry: &LsEntry, holders: &str) -> String {
    match (entry.kind, entry.plane) {
        (EntryKind::File, Plane::Native) => format!("{} {holders}", entry.holders.len()),
        _ => holders.to_owned(),
    }
}

/// Returns the holder names that fit into [`HOLDERS_COLUMNS`], and the number of the others.
fn some_holders(holders: &[String]) -> String {
    let mut text = String::new();
    for (told, holder) in holders.iter().enumerate() {
        let comma = if told == 0 { "" } else { "," };
        if told > 0 && text.chars().count() + holder.len() >= HOLDERS_COLUMNS {
            return format!("{text},+{}", holders.len() - told);
        }
        text.push_str(comma);
        text.push_str(&start_of(&printable(holder)));
    }
    text
}

/// Returns a name, shortened if it is too long.
fn start_of(name: &str) -> String {
    match name.char_indices().nth(HOLDERS_COLUMNS - 1) {
        Some((end, _)) if name.chars().count() > HOLDERS_COLUMNS => format!("{}…", &name[..end]),
        _ => name.to_owned(),
    }
}

fn mode(entry: &LsEntry) -> &'static str {
    match (entry.kind, entry.executable) {
        (EntryKind::Directory, _) => "dr-x",
        (EntryKind::Symlink, _) => "lr-x",
        (EntryKind::File, true) => "-r-x",
        (EntryKind::File, false) => "-r--",
    }
}

pub(super) fn why(options: &WhyOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open()?;
    let path = shared_name(&mut client, &options.path)?;
    let provenance: Provenance = client.call(&Call::Why { path })?;
    if options.reporting.json {
        return output.json(&provenance);
    }
    let listed = if provenance.listed {
        "listed"
    } else {
        "not listed"
    };
    let name = escape_path(&provenance.path);
    output.paragraph("", &format!("{name}: {listed}"))?;
    let given = |text: &Option<String>| text.as_deref().map_or_else(String::new, printable);
    let fields = [
        ("rule", printable(&provenance.rule)),
        ("next read", printable(&provenance.next_read)),
        ("owner", given(&provenance.owner)),
        ("left out", given(&provenance.left_out)),
        ("sent by", given(&provenance.sent_by)),
    ];
    output.fields(2, 11, fields)?;
    for version in &provenance.versions {
        print_version(version, output)?;
    }
    Ok(())
}

/// Returns whether a directory exists only because a share has files below it, such as `photos` of
/// a share added with `--as photos/2026`. It has no author, time and holders of its own.
fn is_made_by_paths_below(version: &VersionInfo) -> bool {
    version.kind == EntryKind::Directory && version.author.is_empty()
}

fn print_version(version: &VersionInfo, output: &mut Output) -> Result<(), CliError> {
    if is_made_by_paths_below(version) {
        let text = "a directory that no node shares itself: it has the entries below it";
        return output.fields(5, 9, [("kind", text.to_owned())]);
    }
    let verdict = match (version.won, version.waits) {
        (true, _) => output.paint("won ", Colour::Green),
        (false, true) => output.paint("wait", Colour::Yellow),
        (false, false) => output.paint("lost", Colour::Yellow),
    };
    let shown_as = version.shown_as.as_ref().map_or_else(
        || "under no name".to_owned(),
        |name| format!("as {}", escape(name.as_bytes())),
    );
    let author = printable(&version.author);
    let line = format!(
        "by {author}, {}, {shown_as}",
        human_bytes(version.size_bytes)
    );
    output.paragraph(&format!("{verdict} "), &line)?;
    let verified = printable(&version.verified);
    let content = match (&version.hash, version.kind) {
        (Some(hash), _) => {
            let start: String = hash.chars().take(16).collect();
            ("hash", format!("{start}… (verified: {verified})"))
        }
        (None, EntryKind::Symlink) => ("kind", "a symbolic link".to_owned()),
        (None, EntryKind::Directory) => ("kind", "a directory".to_owned()),
        (None, EntryKind::File) => ("hash", format!("none (verified: {verified})")),
    };
    let (time, mtime) = (
        local_time(version.version_time),
        local_time(version.modified),
    );
    let holders = match version.holders[..] {
        [] => "none".to_owned(),
        _ => printable(&version.holders.join(", ")),
    };
    let cached = match version.kind {
        EntryKind::File => percent(version.cached_bytes, version.size_bytes),
        _ => String::new(),
    };
    let copies = match (version.kind, &version.hash) {
        (EntryKind::File, Some(_)) => version.holders.len().to_string(),
        _ => String::new(),
    };
    let fields = [
        content,
        ("version", format!("{time} (mtime {mtime})")),
        ("holders", holders),
        ("copies", copies),
        ("cached", cached),
    ];
    output.fields(5, 9, fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> LsEntry {
        LsEntry {
            path: Named::new(path),
            kind: EntryKind::File,
            size_bytes: 0,
            modified: jiff::Timestamp::UNIX_EPOCH,
            executable: false,
            hash: None,
            holders: Vec::new(),
            cached_bytes: 0,
            pinned: false,
            plane: Plane::Native,
        }
    }

    #[test]
    fn of_many_holders_some_are_named_and_the_others_counted() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let told: Vec<String> = [
            names(&[]),
            names(&["lab-2", "lab-3"]),
            names(&["lab-1", "lab-2", "lab-3", "lab-4"]),
            names(&["a-name-that-is-too-long-for-it", "b"]),
        ]
        .iter()
        .map(|names: &Vec<String>| some_holders(names))
        .collect();
        let one_long = "a-name-that-is-…,+1";
        assert_eq!(told, ["", "lab-2,lab-3", "lab-1,lab-2,+2", one_long]);
    }

    #[test]
    fn names_are_shown_as_in_the_queried_directory() {
        assert_eq!(name_within(&entry("a/b"), &Named::default()), b"a/b");
        assert_eq!(name_within(&entry("a/b"), &Named::new("a")), b"b");
        assert_eq!(name_within(&entry("a"), &Named::new("a")), b"a");
        assert_eq!(name_within(&entry("ab"), &Named::new("a")), b"ab");
    }
}
