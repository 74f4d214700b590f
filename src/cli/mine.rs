//! `p2pfs ls --mine`: files that this machine offers.

use super::error::CliError;
use super::output::{NameOptions, Output};
use super::share::readers;
use super::text::{escape, human_bytes, printable};
use crate::daemon::config::units::write_count;
use crate::daemon::control::{Call, Client, EntryKind, Mine, MyEntry, ShareInfo, Shares};

/// Prints the shares with everything they offer, sorted by share and name.
pub(super) fn print(
    client: &mut Client,
    json: bool,
    names: NameOptions,
    output: &mut Output,
) -> Result<(), CliError> {
    let shares: Shares = client.call(&Call::Shares {})?;
    let mut entries = all_entries(client)?;
    let key = |entry: &MyEntry| [entry.share.as_bytes(), entry.path.as_bytes()].map(<[u8]>::to_vec);
    entries.sort_by_cached_key(key);
    if json {
        let json = serde_json::json!({"shares": shares.shares, "entries": entries});
        return output.json(&json);
    }
    if !output.is_terminal() || names.are_bytes() {
        let mut paths = entries.iter().map(|entry| entry.path.as_bytes());
        return paths.try_for_each(|path| output.name(path, names));
    }
    if shares.shares.is_empty() {
        return output.line("nothing leaves this machine: it shares nothing");
    }
    for share in &shares.shares {
        let of_share = entries.iter().filter(|entry| entry.share == share.dir);
        print_share(share, of_share, output)?;
    }
    Ok(())
}

fn all_entries(client: &mut Client) -> Result<Vec<MyEntry>, CliError> {
    let (mut entries, mut after) = (Vec::new(), None);
    loop {
        let page: Mine = client.call(&Call::Mine { after })?;
        entries.extend(page.entries);
        match page.next {
            None => return Ok(entries),
            next => after = next,
        }
    }
}

fn print_share<'a>(
    share: &ShareInfo,
    entries: impl Iterator<Item = &'a MyEntry>,
    output: &mut Output,
) -> Result<(), CliError> {
    let (files, size) = (
        write_count(share.files, "file", "files"),
        human_bytes(share.bytes),
    );
    let mut said = vec![format!("{files}, {size}"), readers(share)];
    if share.legacy {
        said.push("legacy peers too".to_owned());
    }
    let dir = escape(share.dir.as_bytes());
    output.paragraph("", &format!("{dir}  {}", said.join(", ")))?;
    for reason in &share.left_out {
        let why = printable(&reason.why);
        let names = write_count(reason.count, "name", "names");
        output.paragraph("  ", &format!("not {names}: {why}"))?;
    }
    let rows = entries.map(|entry| {
        let (size, mark) = match entry.kind {
            EntryKind::File => (human_bytes(entry.size_bytes), ""),
            EntryKind::Directory => ("-".to_owned(), "/"),
            EntryKind::Symlink => ("-".to_owned(), "@"),
        };
        vec![size, format!("{}{mark}", escape(entry.path.as_bytes()))]
    });
    output.table(&["SIZE", "NAME"], &[0], rows.collect())
}
