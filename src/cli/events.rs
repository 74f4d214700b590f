//! `p2pfs events`: past and current events.

use clap::Args;

use super::connect::Reporting;
use super::error::CliError;
use super::output::Output;
use super::text::{escape, human_bytes, local_time, printable};
use p2pfs_node::{Condition, Severity};

use crate::daemon::control::{
    Breaks, Call, Event, EventKind, FetchInfo, FileChange, GiveInfo, PushInfo,
};

/// The flags of `p2pfs events`.
#[derive(Debug, Clone, Args)]
pub struct EventsOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// Continue to show new events
    #[arg(short, long)]
    follow: bool,
}

pub(super) fn run(options: &EventsOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open_patiently()?;
    let call = Call::Events {
        follow: options.follow,
    };
    client.start(&call)?;
    loop {
        let reply = match client.next_reply() {
            // The repeated call reports only events of the new daemon, so none is printed twice.
            Err(error) if options.follow => {
                client.recover(&mut Breaks::default(), error)?;
                client.start(&call)?;
                continue;
            }
            reply => reply?,
        };
        if !reply.continues {
            return Ok(());
        }
        let event: Event = reply.decode()?;
        if options.reporting.json {
            output.json_line(&event)?
        } else {
            let time = format!("{}  ", local_time(event.time));
            if output.is_terminal() {
                output.paragraph(&time, &sentence(&event))?
            } else {
                // One line for each event, for scripts.
                output.line(&format!("{time}{}", sentence(&event)))?
            }
            output.flush()?;
        }
    }
}

/// Names a change of a file, and the node that made it.
fn changed(what: &str, file: &FileChange) -> String {
    let path = escape(file.path.as_bytes());
    match &file.peer {
        Some(peer) => format!("{what} {path}, by {}", printable(peer)),
        None => format!("{what} {path}"),
    }
}

/// Describes an event; the time is printed before it.
fn sentence(event: &Event) -> String {
    match &event.what {
        EventKind::PeerUp { peer, .. } => format!("{} is up", printable(peer)),
        EventKind::PeerDown { peer, why, .. } => {
            format!("{} is down: {}", printable(peer), printable(why))
        }
        EventKind::PeerShunned { peer, why, .. } => {
            format!("{} is shunned: {}", printable(peer), printable(why))
        }
        EventKind::FileAdded(name) => format!("added {}", escape(name.as_bytes())),
        EventKind::FileRemoved(file) => changed("removed", file),
        EventKind::FileChanged(file) => changed("changed", file),
        EventKind::FetchStarted(fetch) => format!("fetching {}", fetched(fetch)),
        EventKind::FetchDone(fetch) => format!("fetched {}", fetched(fetch)),
        EventKind::FetchFailed(fetch) => {
            let why = fetch.why.as_deref().unwrap_or("no reason given");
            format!("could not fetch {}: {}", fetched(fetch), printable(why))
        }
        EventKind::GiveStarted(give) => format!("giving {}", given(give)),
        EventKind::GiveDone(give) => format!("gave {}", given(give)),
        EventKind::MeshUp(peer) => {
            let (name, address) = (printable(&peer.peer), printable(&peer.address));
            format!("mesh peer {name} is up at {address}")
        }
        EventKind::MeshDown(peer) => {
            let why = peer.why.as_deref().unwrap_or("no reason given");
            let (name, address) = (printable(&peer.peer), printable(&peer.address));
            format!("mesh peer {name} at {address} is down: {}", printable(why))
        }
        EventKind::MeshLearned { peer, count } => {
            format!("{count} mesh addresses from {}", printable(peer))
        }
        EventKind::Chat { peer, text } => {
            format!("{} says: {}", printable(peer), printable(text))
        }
        EventKind::Bytes { peer, size_bytes } => {
            format!("{size_bytes} bytes of no file from {}", printable(peer))
        }
        EventKind::ReceiveStarted(push) => {
            format!("{} from {}", pushed("receiving", push), peer(push))
        }
        EventKind::ReceiveDone(push) => format!("{} from {}", pushed("received", push), peer(push)),
        EventKind::ReceiveFailed(push) => {
            let what = pushed("did not receive", push);
            format!("{what} from {}: {}", peer(push), why(push))
        }
        EventKind::SendStarted(push) => format!("{} to {}", pushed("sending", push), peer(push)),
        EventKind::SendDone(push) => format!("{} to {}", pushed("sent", push), peer(push)),
        EventKind::SendFailed(push) => {
            let what = pushed("did not send", push);
            format!("{what} to {}: {}", peer(push), why(push))
        }
        EventKind::Membership { message } => printable(message),
        EventKind::Warning { message, condition } => {
            format!("{}: {}", severity(condition), printable(message))
        }
        EventKind::WarningOver { message, .. } => {
            format!("no longer so: {}", printable(message))
        }
        EventKind::LeftOut { count } => {
            format!("{count} events about files that only others may be told of")
        }
        EventKind::Lost { count } => format!("{count} events were lost here"),
    }
}

/// Returns the word for the severity of a condition. A warning without a condition, or of an unknown
/// one, is a warning.
fn severity(condition: &str) -> &'static str {
    let mut all = Condition::ALL.iter().map(|it| it.text());
    let found = all.find(|it| it.name == condition);
    match found.map(|it| it.severity) {
        Some(Severity::Error) => "error",
        Some(Severity::Warning) | None => "warning",
    }
}

fn pushed(what: &str, push: &PushInfo) -> String {
    let (name, size) = (escape(push.name.as_bytes()), human_bytes(push.size_bytes));
    format!("{what} {name} ({size})")
}

fn peer(push: &PushInfo) -> String {
    printable(&push.peer)
}

fn why(push: &PushInfo) -> String {
    printable(push.why.as_deref().unwrap_or("no reason given"))
}

fn given(give: &GiveInfo) -> String {
    let (name, peer) = (escape(give.name.as_bytes()), printable(&give.peer));
    let size = human_bytes(give.size_bytes);
    format!("{name} ({size}) to the legacy peer {peer}")
}

fn fetched(fetch: &FetchInfo) -> String {
    let name = match &fetch.name {
        Some(name) => escape(name.as_bytes()),
        None => "a file that is listed no more".to_owned(),
    };
    format!("{name} ({})", human_bytes(fetch.size_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::Named;

    #[test]
    fn talk_and_foreign_names_cannot_control_a_terminal() {
        let told = |what| {
            sentence(&Event {
                time: jiff::Timestamp::UNIX_EPOCH,
                what,
            })
        };
        let chat = told(EventKind::Chat {
            peer: "e\x1b[2Jve".to_owned(),
            text: "hi\r\n\x07\u{202e}".to_owned(),
        });
        assert!(
            chat.ends_with("e\\u{1b}[2Jve says: hi\\r\\n\\u{7}\\u{202e}"),
            "{chat}"
        );
        let push = told(EventKind::ReceiveFailed(PushInfo {
            peer: "a\nb".to_owned(),
            name: Named::new(b"x\x1b".to_vec()),
            size_bytes: 1,
            why: Some("no\nroom".to_owned()),
        }));
        assert!(!push.chars().any(char::is_control), "{push}");
    }

    #[test]
    fn event_of_a_condition_has_the_severity_of_the_condition() {
        let told = |condition: &str| {
            sentence(&Event {
                time: jiff::Timestamp::UNIX_EPOCH,
                what: EventKind::Warning {
                    message: "trouble".to_owned(),
                    condition: condition.to_owned(),
                },
            })
        };
        assert_eq!(told("key-copied"), "error: trouble");
        assert_eq!(told("peers-down"), "warning: trouble");
        assert_eq!(told(""), "warning: trouble");
    }

    #[test]
    fn an_event_is_one_line_for_any_names() {
        let name = Some(Named::new(b"a\nb\x1b[m".to_vec()));
        let hash = "0".repeat(64);
        let why = Some("no\nholder".to_owned());
        let what = EventKind::FetchFailed(FetchInfo {
            hash,
            size_bytes: 1024,
            name,
            why,
        });
        let line = sentence(&Event {
            time: jiff::Timestamp::UNIX_EPOCH,
            what,
        });
        assert!(
            line.starts_with("could not fetch a\\nb\\u{1b}[m (1.0"),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1);
    }
}
