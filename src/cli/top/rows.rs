//! Content of `p2pfs top`, as lines and columns of printable text.

use crate::cli::error::CliError;
use crate::cli::output::{FittedTable, Output};
use crate::cli::status::state_word;
use crate::cli::text::{escape, human_bytes, percent, printable, time_of_day, user_name};
use crate::daemon::control::{
    PeerInfo, ReadFileInfo, ReaderInfo, Top, TransferInfo, WaitInfo, WaitingFor,
};

/// Maximum number of shown files per reader. Further open files are only counted.
const FILES_SHOWN_MAX: usize = 4;

/// One section of the display: a table, whose last column takes the remaining width of the line.
pub(super) struct Part {
    pub heading: &'static [&'static str],
    /// Indices of the right-aligned columns.
    pub right: &'static [usize],
    /// Indices of the columns that are shortened on a narrow terminal.
    pub shortened: &'static [usize],
    pub rows: Vec<Vec<String>>,
    /// Text if there are no rows.
    pub nothing: &'static str,
}

pub(super) fn print(top: &Top, output: &mut Output) -> Result<(), CliError> {
    output.paragraph("", &summary(top))?;
    for part in parts(top) {
        output.line("")?;
        if part.rows.is_empty() {
            output.line(part.nothing)?
        } else if output.is_terminal() {
            let table = FittedTable {
                heading: part.heading,
                right: part.right,
                names: &[part.heading.len() - 1],
                shortened: part.shortened,
            };
            output.fitted_table(&table, part.rows)?
        } else {
            output.table(part.heading, part.right, part.rows)?
        }
    }
    Ok(())
}

/// Summarizes the node in one line.
pub(super) fn summary(top: &Top) -> String {
    let (traffic, cache) = (&top.traffic, &top.cache);
    format!(
        "{}  {}  in {}/s, out {}/s, cache {} of {}",
        printable(&top.name),
        time_of_day(top.time),
        human_bytes(traffic.receive_bytes_per_s),
        human_bytes(traffic.send_bytes_per_s),
        human_bytes(cache.used_bytes),
        human_bytes(cache.budget_bytes)
    )
}

/// Returns the sections: readers, transfers and peers, in this order.
pub(super) fn parts(top: &Top) -> [Part; 3] {
    [
        Part {
            heading: &[
                "PID", "USER", "PROGRAM", "RATE", "CACHE", "PEERS", "WAITS", "READS",
            ],
            right: &[0, 3, 4, 5, 6],
            shortened: &[1, 2],
            rows: top.readers.iter().flat_map(reader_rows).collect(),
            nothing: match top.other_readers {
                0 => "nobody reads",
                _ => "you read nothing; others do",
            },
        },
        Part {
            heading: &["RATE", "HERE", "SIZE", "WAITING", "FROM", "TRANSFER"],
            right: &[0, 1, 2, 3],
            shortened: &[4],
            rows: top.transfers.iter().map(transfer_row).collect(),
            nothing: match top.other_transfers {
                0 => "nothing is fetched",
                _ => "nothing is fetched for you; others' files are",
            },
        },
        Part {
            heading: &["RTT", "RATE", "RECEIVED", "SENT", "STATE", "PEER"],
            right: &[0, 1, 2, 3],
            shortened: &[],
            rows: top.peers.iter().map(peer_row).collect(),
            nothing: "no other node is known",
        },
    ]
}

fn rate(bytes: u64) -> String {
    format!("{}/s", human_bytes(bytes))
}

/// Returns a row for the process with its first file, one for each further open file up to
/// [`FILES_SHOWN_MAX`], and one with the number of open files that are not shown.
fn reader_rows(reader: &ReaderInfo) -> Vec<Vec<String>> {
    let mut files: Vec<&ReadFileInfo> = reader.files.iter().collect();
    // Files that the process waits for come first, then open ones.
    files.sort_by_key(|file| (file.waiting.is_none(), file.open == 0));
    let open = files.iter().filter(|file| file.open > 0).count();
    let shown = open.clamp(1, FILES_SHOWN_MAX).min(files.len());
    let mut rows = vec![vec![
        reader.pid.to_string(),
        user_name(reader.uid),
        program(reader),
        rate(reader.read_bytes_per_s),
        human_bytes(reader.given.from_cache_bytes),
        human_bytes(reader.given.from_peers_bytes),
        reader.waiting.as_ref().map(waits).unwrap_or_default(),
        files
            .first()
            .map(|file| file_name(file))
            .unwrap_or_default(),
    ]];
    let more = |text: String| {
        let mut row = vec![String::new(); rows[0].len() - 1];
        row.push(text);
        row
    };
    let mut others: Vec<_> = files
        .iter()
        .take(shown)
        .skip(1)
        .map(|file| more(file_name(file)))
        .collect();
    if open > shown {
        others.push(more(format!("and {} more", open - shown)));
    }
    rows.append(&mut others);
    rows
}

fn program(reader: &ReaderInfo) -> String {
    let mut text = printable(&reader.program);
    if text.is_empty() {
        text.push('?');
    }
    if reader.cached_only {
        text.push_str(" (cached only)");
    }
    if let Some(budget) = reader.budget_bytes_per_s {
        text.push_str(&format!(" (at most {})", rate(budget)));
    }
    text
}

fn waits(wait: &WaitInfo) -> String {
    let why = match wait.waiting_for {
        WaitingFor::Peers => "peers",
        WaitingFor::Budget => "budget",
    };
    format!("{:.1} s, {why}", wait.waiting_ms as f64 / 1e3)
}

fn file_name(file: &ReadFileInfo) -> String {
    let name = escape(file.path.as_bytes());
    match (file.open, file.by_kernel) {
        (0, _) => format!("{name} (closed)"),
        (_, true) => format!("{name} (read by the kernel)"),
        (_, false) => name,
    }
}

fn transfer_row(transfer: &TransferInfo) -> Vec<String> {
    let sources = transfer.sources.iter();
    let names: Vec<String> = sources.map(|source| printable(&source.name)).collect();
    vec![
        rate(transfer.receive_bytes_per_s),
        percent(transfer.ready_bytes, transfer.size_bytes),
        human_bytes(transfer.size_bytes),
        transfer.waiting_reads.to_string(),
        if names.is_empty() {
            "nobody".to_owned()
        } else {
            names.join(", ")
        },
        escape(transfer.path.as_bytes()),
    ]
}

fn peer_row(peer: &PeerInfo) -> Vec<String> {
    let unknown = || "-".to_owned();
    let state = match &peer.shunned {
        Some(_) => "shunned",
        None => state_word(peer.state),
    };
    vec![
        peer.round_trip_ms
            .map_or_else(unknown, |ms| format!("{ms:.1} ms")),
        peer.receive_bytes_per_s.map_or_else(unknown, rate),
        human_bytes(peer.received_bytes),
        human_bytes(peer.sent_bytes),
        state.to_owned(),
        printable(&peer.name),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::{GivenInfo, Named};

    fn file(name: &str, open: u64) -> ReadFileInfo {
        ReadFileInfo {
            path: Named::new(name),
            open,
            by_kernel: false,
            given: GivenInfo::default(),
            waiting: None,
        }
    }

    fn reader(files: Vec<ReadFileInfo>) -> ReaderInfo {
        ReaderInfo {
            pid: 7,
            uid: 0,
            program: "evil\x1b[2J".to_owned(),
            unit: None,
            cached_only: false,
            budget_bytes_per_s: Some(1 << 20),
            opens: 1,
            given: GivenInfo::default(),
            read_bytes_per_s: 0,
            waiting: None,
            files,
        }
    }

    #[test]
    fn waiting_reads_come_first_and_only_some_of_many_files_are_shown() {
        let mut files: Vec<_> = (0..10).map(|n| file(&format!("f{n}"), 1)).collect();
        files[7].waiting = Some(WaitInfo {
            waiting_reads: 1,
            waiting_ms: 1500,
            waiting_for: WaitingFor::Peers,
        });
        let rows = reader_rows(&reader(files));
        let names: Vec<&str> = rows.iter().map(|row| row[7].as_str()).collect();
        assert_eq!(names, ["f7", "f0", "f1", "f2", "and 6 more"]);
    }

    #[test]
    fn a_name_cannot_control_the_terminal() {
        let rows = reader_rows(&reader(vec![file("a\nb\x1b[m", 0)]));
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0][7], "a\\nb\\u{1b}[m (closed)");
        assert_eq!(rows[0][2], "evil\\u{1b}[2J (at most 1.0 MiB/s)");
    }
}
