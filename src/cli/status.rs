//! `p2pfs status` and `p2pfs peers`: state of this node and of the others.

use super::connect::Reporting;
use super::error::CliError;
use super::output::{Colour, FittedTable, Output};
use super::share::print_one;
use super::text::{escape, human_bytes, local_time, percent, printable};
use jiff::Timestamp;
use p2pfs_node::api::MUTE_MIN;
use p2pfs_types::age::age_text;

use crate::daemon::config::units::write_count;
use crate::daemon::control::{
    AbsentPeer, CacheUsage, Call, CheckState, KeptFiles, NamespaceStatus, PeerCounts, PeerInfo,
    PeerState, Peers, Plane, ServiceState, Status, Traffic, WrittenUsage,
};

pub(super) fn status(reporting: &Reporting, output: &mut Output) -> Result<(), CliError> {
    let status: Status = reporting.open_at_hand()?.call(&Call::Status {})?;
    if reporting.json {
        output.json(&status)
    } else {
        print_status(&status, output)
    }
}

fn print_status(status: &Status, output: &mut Output) -> Result<(), CliError> {
    let rows = [
        ("node", node(status, output)),
        ("version", version(status)),
        ("address", status.address.clone()),
        ("mount", mount(status)),
        ("peers", peer_counts(status)),
        (
            "absent",
            absent(&status.absent, &status.peers).unwrap_or_default(),
        ),
        ("files", files(&status.namespace)),
        ("cache", cache(&status.cache)),
        ("kept", kept(&status.keep)),
        ("written", written(status.written).unwrap_or_default()),
        ("traffic", traffic(&status.traffic)),
    ];
    output.fields(0, 9, rows)?;
    for share in &status.shares {
        print_one("share    ", share, output)?;
    }
    let (errors, warnings): (Vec<_>, Vec<_>) = status
        .warnings
        .iter()
        .partition(|it| status.errors.contains(it));
    let errors = errors.iter().map(|it| (CheckState::Failed, it));
    let warnings = warnings.iter().map(|it| (CheckState::Warning, it));
    for (state, said) in errors.chain(warnings) {
        let lead = format!("{}  ", state_of_check(state, output));
        output.paragraph(&lead, &printable(said))?;
    }
    if let Some(said) = only_here(&status.keep) {
        let lead = format!("{}  ", state_of_check(CheckState::Warning, output));
        output.paragraph(&lead, &said)?;
    }
    Ok(())
}

/// Returns the word for the state of a check or of a condition, in a column of seven letters.
pub(super) fn state_of_check(state: CheckState, output: &Output) -> String {
    let (word, colour) = match state {
        CheckState::Ok => ("ok     ", Colour::Green),
        CheckState::Note => ("note   ", Colour::Blue),
        CheckState::Warning => ("warning", Colour::Yellow),
        CheckState::Failed => ("error  ", Colour::Red),
    };
    output.paint(word, colour).into_owned()
}

fn node(status: &Status, output: &Output) -> String {
    let (word, colour) = match status.state {
        ServiceState::Starting => ("starting", Colour::Yellow),
        ServiceState::Serving => ("serving", Colour::Green),
        ServiceState::Stopping => ("stopping", Colour::Yellow),
    };
    let word = output.paint(word, colour);
    format!("{}, {word}", printable(&status.name))
}

fn version(status: &Status) -> String {
    format!(
        "{}, process {}, up since {}",
        status.version,
        status.pid,
        local_time(status.started)
    )
}

fn files(namespace: &NamespaceStatus) -> String {
    format!(
        "{}, {}",
        write_count(namespace.entries, "name", "names"),
        human_bytes(namespace.unique_bytes)
    )
}

fn cache(cache: &CacheUsage) -> String {
    format!(
        "{} of {} ({}), {}, {} whole, {} pinned",
        human_bytes(cache.used_bytes),
        human_bytes(cache.budget_bytes),
        percent(cache.used_bytes, cache.budget_bytes),
        write_count(cache.files, "file", "files"),
        cache.complete_files,
        human_bytes(cache.pinned_bytes)
    )
}

fn written(written: Option<WrittenUsage>) -> Option<String> {
    let written = written?;
    let used = human_bytes(written.used_bytes);
    Some(match written.budget_bytes {
        Some(budget) => format!("{used} of {}", human_bytes(budget)),
        None => used,
    })
}

fn kept(keep: &KeptFiles) -> String {
    if !keep.enabled {
        return String::new();
    }
    let files = |count, bytes| {
        let count = write_count(count, "file", "files");
        format!("{count}, {}", human_bytes(bytes))
    };
    let mut text = files(keep.files, keep.bytes);
    if keep.missing_files > 0 {
        let missing = files(keep.missing_files, keep.missing_bytes);
        text += &format!("; to be fetched: {missing}");
    }
    if keep.left_out_files > 0 {
        let left_out = files(keep.left_out_files, keep.left_out_bytes);
        text += &format!("; no room: {left_out}");
    }
    text
}

fn only_here(keep: &KeptFiles) -> Option<String> {
    let (files, bytes) = (keep.only_here_files, keep.only_here_bytes);
    (files > 0).then(|| {
        format!(
            "{} ({}) written here: no other live node has a complete copy; set keep.paths on a \
             node that stays on",
            write_count(files, "file", "files"),
            human_bytes(bytes)
        )
    })
}

fn traffic(traffic: &Traffic) -> String {
    format!(
        "{} received ({}/s), {} sent ({}/s)",
        human_bytes(traffic.received_bytes),
        human_bytes(traffic.receive_bytes_per_s),
        human_bytes(traffic.sent_bytes),
        human_bytes(traffic.send_bytes_per_s)
    ) + if traffic.metered { "; metered" } else { "" }
}

fn mount(status: &Status) -> String {
    let mount = &status.mount;
    let dir = escape(mount.dir.as_bytes());
    match (mount.enabled, mount.mounted, &mount.problem) {
        (false, ..) => "none, by configuration".to_owned(),
        (true, true, None) if mount.writable => dir,
        (true, true, None) if status.written.is_some() => {
            format!("{dir}, read-only now; see p2pfs write")
        }
        (true, true, None) => format!("{dir}, read-only; to let programs write: p2pfs write on"),
        (true, true, Some(problem)) => format!("{dir}: {}", printable(problem)),
        (true, false, Some(problem)) => format!("{dir}: not mounted: {}", printable(problem)),
        (true, false, None) => format!("{dir}: not mounted yet"),
    }
}

fn peer_counts(status: &Status) -> String {
    let peers = &status.peers;
    format!(
        "{} alive, {} suspect, {} away, {} down{}",
        peers.alive,
        peers.suspect,
        peers.away,
        peers.down,
        if status.legacy {
            "; legacy peers spoken to"
        } else {
            ""
        }
    )
}

/// Names the nodes that are suspect, away or down, with the time of that. Returns `None` if there
/// are none.
pub(super) fn absent(absent: &[AbsentPeer], counts: &PeerCounts) -> Option<String> {
    let named = absent.iter().map(|peer| {
        let (name, state) = (printable(&peer.name), state_word(peer.state));
        format!("{name} is {state} since {}", local_time(peer.since))
    });
    let named: Vec<_> = named.collect();
    let all = counts.suspect + counts.away + counts.down;
    let more = all.saturating_sub(named.len() as u64);
    let more = if more == 0 {
        String::new()
    } else {
        format!(", and {more} more")
    };
    (!named.is_empty()).then(|| format!("{}{more}; see p2pfs peers", named.join(", ")))
}

const MUTE: &str = "alive, but left the last questions for files without an answer: a firewall \
                    that lets one direction through, or a path that loses large packets (a VPN: \
                    lower the MTU); p2pfs ping shows whether it answers at all";

pub(super) fn peers(reporting: &Reporting, output: &mut Output) -> Result<(), CliError> {
    let peers: Peers = reporting.open_at_hand()?.call(&Call::Peers {})?;
    if reporting.json {
        return output.json(&peers);
    }
    if peers.peers.is_empty() {
        // Names both ways to bring in a node, because not every user may ask the daemon which of
        // them this cluster uses.
        return output.paragraph(
            "",
            "no other node is known; to bring one in: p2pfs invite, or, in a cluster with a \
             secret file, give it the same file; p2pfs doctor looks for nodes of other clusters \
             on the local network",
        );
    }
    let table = FittedTable {
        heading: &["NAME", "ADDRESS", "STATE", "PLANE", "RTT", "SPEED", "PRIO"],
        right: &[4, 5, 6],
        names: &[0, 1],
        shortened: &[],
    };
    output.fitted_table(&table, peers.peers.iter().map(peer_row).collect())?;
    for peer in &peers.peers {
        if peer.state == PeerState::Alive && peer.unanswered >= MUTE_MIN {
            let word = output.paint("mute", Colour::Red).into_owned();
            let said = format!("{}: {MUTE}", printable(&peer.name));
            output.paragraph(&format!("{word} "), &said)?;
        }
        if let Some(why) = &peer.shunned {
            let word = output.paint("shunned", Colour::Red).into_owned();
            let said = format!("{}: {}", printable(&peer.name), printable(why));
            output.paragraph(&format!("{word} "), &said)?;
        }
        if peer.shunned.is_none() && peer.lies > 0 {
            let word = output.paint("lied", Colour::Red).into_owned();
            let said = match peer.lies {
                1 => "sent wrong bytes once in the last 30 days".to_owned(),
                times => format!("sent wrong bytes {times} times in the last 30 days"),
            };
            let said = format!("{}: {said}", printable(&peer.name));
            output.paragraph(&format!("{word} "), &said)?;
        }
        if let Some(last) = &peer.last_offence {
            let word = output.paint("offends", Colour::Red).into_owned();
            let said = format!("{}: {}", printable(&peer.name), offence(peer, last));
            output.paragraph(&format!("{word} "), &said)?;
        }
    }
    Ok(())
}

/// Describes the last offence of a peer, with its time and the number of all offences.
fn offence(peer: &PeerInfo, last: &str) -> String {
    let ago = peer.last_offence_time.map_or_else(String::new, |at| {
        let age = Timestamp::now().duration_since(at).unsigned_abs();
        format!("{} ago: ", age_text(age))
    });
    let count = match peer.offences {
        0 | 1 => String::new(),
        count => format!(" ({count} times in all)"),
    };
    format!("{ago}{}{count}", printable(last))
}

/// Returns the word for the state of a peer.
pub(super) fn state_word(state: PeerState) -> &'static str {
    match state {
        PeerState::Alive => "alive",
        PeerState::Suspect => "suspect",
        PeerState::Away => "away",
        PeerState::Down => "down",
        PeerState::Left => "left",
        PeerState::Expelled => "expelled",
    }
}

fn peer_row(peer: &PeerInfo) -> Vec<String> {
    let plane = match peer.plane {
        Plane::Native => "native",
        Plane::Legacy => "legacy",
        Plane::Mesh => "mesh",
    };
    let unknown = || "-".to_owned();
    vec![
        printable(&peer.name),
        printable(&peer.address),
        state_word(peer.state).to_owned(),
        plane.to_owned(),
        peer.round_trip_ms
            .map_or_else(unknown, |ms| format!("{ms:.1} ms")),
        peer.rate_bytes_per_s
            .map_or_else(unknown, |rate| format!("{}/s", human_bytes(rate))),
        peer.priority
            .map_or_else(unknown, |place| place.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn absent_nodes_are_named_with_their_state_and_the_rest_counted() {
        let counts = PeerCounts {
            down: 3,
            away: 1,
            ..PeerCounts::default()
        };
        assert_eq!(absent(&[], &counts), None);
        let peer = |name: &str, state| AbsentPeer {
            name: name.to_owned(),
            node: String::new(),
            state,
            since: Timestamp::UNIX_EPOCH,
        };
        let peers = [peer("attic", PeerState::Away), peer("nas", PeerState::Down)];
        let since = local_time(Timestamp::UNIX_EPOCH);
        assert_eq!(
            absent(&peers, &counts).unwrap(),
            format!(
                "attic is away since {since}, nas is down since {since}, and 2 more; see p2pfs \
                 peers"
            )
        );
    }

    #[test]
    fn offence_is_a_sentence_with_its_age_and_number() {
        let mut peer = PeerInfo {
            offences: 1,
            last_offence_time: Some(Timestamp::now() - SignedDuration::from_mins(12)),
            ..PeerInfo::default()
        };
        let said = |peer: &PeerInfo| offence(peer, "sent too slowly");
        assert_eq!(said(&peer), "12 min ago: sent too slowly");
        peer.offences = 3;
        assert_eq!(said(&peer), "12 min ago: sent too slowly (3 times in all)");
        peer.last_offence_time = None;
        assert_eq!(said(&peer), "sent too slowly (3 times in all)");
    }
}
