//! Events for callers that ask for them or follow them.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::transfers::Telling;
use super::{Asked, Services, Viewer, transfers};
use crate::daemon::control::{
    Answer, CallerGone, Event, EventKind, Failure, FetchInfo, FileChange, GiveInfo, MeshPeerInfo,
    Named, Nothing, PushInfo, ReplySink, parameters,
};
use p2pfs_node::api::DownReason;
use p2pfs_node::{Fetched, ForeignPeer, Given, News, Noted, Push, PushStage, Who};
use p2pfs_types::path::SharedPath;

/// How long the event of a new node waits for the node's name.
const NAMING_TIME: Duration = Duration::from_secs(2);
/// Interval between checks for the name.
const NAMING_LOOK: Duration = Duration::from_millis(100);
/// How long the folder may take to show a new name before its event is sent anyway.
const SHOWING_TIME: Duration = Duration::from_secs(1);
/// Interval between checks of the folder.
const SHOWING_LOOK: Duration = Duration::from_millis(2);
/// After the folder was slower than [`SHOWING_TIME`], how long events of new names are sent without
/// waiting for the folder. Without this pause, events would pile up.
const SHOWING_PAUSE: Duration = Duration::from_secs(10);

impl Answer<Asked> for parameters::Events {
    async fn answer(self, asked: &mut Asked) -> Result<Nothing, Failure> {
        tell_events(&asked.services, self.follow, &asked.viewer, &asked.reply).await
    }
}

/// Sends the remembered events to a caller, and with `follow` all later events. Events with names
/// that the caller may not see are only counted. Events for the owner are left out for all other
/// callers.
async fn tell_events(
    services: &Services,
    follow: bool,
    viewer: &Viewer,
    reply: &ReplySink,
) -> Result<Nothing, Failure> {
    let mut events = services.node.events().follow();
    let read_before = transfers::read_by(services, viewer);
    let mut left_out = LeftOut::default();
    let mut lost_before = 0;
    let mut shown = Shown::default();
    loop {
        let remembered = events.next_remembered();
        let is_past = remembered.is_some();
        let noted = match remembered {
            Some(noted) => noted,
            None if !follow => break,
            None => tokio::select! {
                next = events.next() => match next {
                    Some(noted) => noted,
                    None => break,
                },
                () = reply.closed() => return Err(CallerGone.into()),
            },
        };
        let count = events.lost() - std::mem::replace(&mut lost_before, events.lost());
        if count > 0 {
            reply.more(&lost(count)).await?;
        }
        let own = || {
            if is_past {
                read_before.clone()
            } else {
                transfers::read_by(services, viewer)
            }
        };
        match transfers::telling(&noted.news, viewer, own) {
            Telling::Whole => {}
            Telling::Counted => {
                left_out.add(&noted);
                continue;
            }
            Telling::Nothing => continue,
        }
        let noted = with_name(services, noted, follow).await;
        if follow && let News::Added(path) = &noted.news {
            shown.wait_for(path, services).await;
        }
        left_out.tell(reply).await?;
        reply.more(&event(noted)).await?;
    }
    left_out.tell(reply).await?;
    Ok(Nothing {})
}

/// Adds the name to the event of a new node. Waits for the name if `waits` is set.
async fn with_name(services: &Services, noted: Noted, waits: bool) -> Noted {
    let Noted { news, .. } = &noted;
    let News::PeerUp(who) = news else {
        return noted;
    };
    let news = News::PeerUp(named(services, who.clone(), waits).await);
    Noted { news, ..noted }
}

/// Adds the name of a node, which arrives shortly after the node itself.
pub(in crate::daemon::service) async fn named(
    services: &Services,
    mut who: Who,
    waits: bool,
) -> Who {
    let patience = if waits { NAMING_TIME } else { Duration::ZERO };
    let until = Instant::now() + patience;
    while who.name.is_none() {
        who.name = services.node.peers().label_of(&who.node);
        if Instant::now() >= until {
            break;
        }
        if who.name.is_none() {
            tokio::time::sleep(NAMING_LOOK).await;
        }
    }
    who
}

/// Delays the event of a new name until the folder shows the name, because the kernel learns of the
/// name in parallel.
#[derive(Default)]
struct Shown {
    /// Time until which no event is delayed, because the folder was too slow.
    given_up_until: Option<Instant>,
}

impl Shown {
    async fn wait_for(&mut self, path: &SharedPath, services: &Services) {
        let begun = Instant::now();
        if self.given_up_until.is_some_and(|until| begun < until) {
            return;
        }
        // The name may have been removed again.
        while !services.activity.served.shows(path) && services.node.names().find(path).is_ok() {
            if begun.elapsed() > SHOWING_TIME {
                self.given_up_until = Some(Instant::now() + SHOWING_PAUSE);
                return;
            }
            tokio::time::sleep(SHOWING_LOOK).await;
        }
    }
}

/// The events since the last report that name files which the caller may not see.
#[derive(Default)]
struct LeftOut {
    count: u64,
    /// Time of the last of these events.
    last: Option<Timestamp>,
}

impl LeftOut {
    fn add(&mut self, noted: &Noted) {
        self.count += 1;
        self.last = Some(time_of(noted));
    }

    /// Sends the number of left out events, if there were any. The time of the report is that of
    /// the last left out event, so that the reported times are in order.
    async fn tell(&mut self, reply: &ReplySink) -> Result<(), CallerGone> {
        let Self { count, last } = std::mem::take(self);
        let Some(time) = last else {
            return Ok(());
        };
        let what = EventKind::LeftOut { count };
        reply.more(&Event { time, what }).await
    }
}

fn lost(count: u64) -> Event {
    Event {
        time: Timestamp::now(),
        what: EventKind::Lost { count },
    }
}

/// Returns the time of an event.
fn time_of(noted: &Noted) -> Timestamp {
    Timestamp::try_from(noted.at).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Converts an event for the control socket.
pub(in crate::daemon::service) fn event(noted: Noted) -> Event {
    let time = time_of(&noted);
    let named = |path: &SharedPath| Named::new(path.as_bytes());
    let what = match noted.news {
        News::PeerUp(who) => EventKind::PeerUp {
            peer: peer_name(&who),
            node: key(&who),
        },
        News::PeerAway(who) => EventKind::PeerDown {
            peer: peer_name(&who),
            node: key(&who),
            why: "stopped cleanly; its files stay for a while".to_owned(),
        },
        News::PeerDown(who, why) => EventKind::PeerDown {
            peer: peer_name(&who),
            node: key(&who),
            why: down_reason(why).to_owned(),
        },
        News::PeerShunned(who) => EventKind::PeerShunned {
            peer: peer_name(&who),
            node: key(&who),
            why: "sent bytes that do not fit their hash".to_owned(),
        },
        News::Added(path) => EventKind::FileAdded(named(&path)),
        News::Removed(path, by) => EventKind::FileRemoved(file_change(&path, by.as_ref())),
        News::Changed(path, by) => EventKind::FileChanged(file_change(&path, Some(&by))),
        News::FetchStarted(fetched) => EventKind::FetchStarted(fetch(&fetched, None)),
        News::FetchDone(fetched) => EventKind::FetchDone(fetch(&fetched, None)),
        News::ReadFailed(fetched, _, why) => EventKind::FetchFailed(fetch(&fetched, Some(why))),
        News::Given(given) if given.is_done => EventKind::GiveDone(give(&given)),
        News::Given(given) => EventKind::GiveStarted(give(&given)),
        News::ForeignUp { who, dialled } => EventKind::MeshUp(MeshPeerInfo {
            dialled,
            ..mesh_peer(&who, None)
        }),
        News::ForeignDown(who, why) => EventKind::MeshDown(mesh_peer(&who, Some(why))),
        News::ForeignRejected(address, why) => EventKind::MeshDown(MeshPeerInfo {
            peer: address.clone(),
            address,
            dialled: true,
            why: Some(why),
        }),
        News::ForeignLearned { from, count } => EventKind::MeshLearned {
            peer: from.name,
            count: count as u64,
        },
        News::Chat { from, text } => EventKind::Chat { peer: from, text },
        News::Bytes { from, size_bytes } => EventKind::Bytes {
            peer: from,
            size_bytes,
        },
        News::Received(push) => received(push),
        News::Sent(push) => sent(push),
        News::Joined(..) | News::JoinRefused { .. } | News::Expelled(..) | News::Rotated(_) => {
            membership(&noted.news)
        }
        News::Warning(message, _) => EventKind::Warning {
            message,
            condition: String::new(),
        },
        News::Began(standing) | News::Explained(standing) => EventKind::Warning {
            message: standing.sentence(),
            condition: standing.condition.text().name.to_owned(),
        },
        News::Ended(standing) => EventKind::WarningOver {
            message: standing.finding.found,
            condition: standing.condition.text().name.to_owned(),
        },
    };
    Event { time, what }
}

fn mesh_peer(who: &ForeignPeer, why: Option<String>) -> MeshPeerInfo {
    MeshPeerInfo {
        peer: who.name.clone(),
        address: who.address.to_string(),
        dialled: false,
        why,
    }
}

fn received(push: Push) -> EventKind {
    match push.stage {
        PushStage::Started => EventKind::ReceiveStarted(pushed(push)),
        PushStage::Done => EventKind::ReceiveDone(pushed(push)),
        PushStage::Failed(_) => EventKind::ReceiveFailed(pushed(push)),
    }
}

fn sent(push: Push) -> EventKind {
    match push.stage {
        PushStage::Started => EventKind::SendStarted(pushed(push)),
        PushStage::Done => EventKind::SendDone(pushed(push)),
        PushStage::Failed(_) => EventKind::SendFailed(pushed(push)),
    }
}

fn pushed(push: Push) -> PushInfo {
    PushInfo {
        peer: push.peer,
        name: Named::new(push.name),
        size_bytes: push.size_bytes,
        why: match push.stage {
            PushStage::Failed(why) => Some(why),
            _ => None,
        },
    }
}

fn give(given: &Given) -> GiveInfo {
    GiveInfo {
        peer: given.peer.to_string(),
        name: Named::new(given.name.clone()),
        size_bytes: given.size_bytes,
    }
}

fn file_change(path: &SharedPath, by: Option<&Who>) -> FileChange {
    FileChange {
        path: Named::new(path.as_bytes()),
        peer: by.map(peer_name),
        node: by.map(key),
    }
}

fn peer_name(who: &Who) -> String {
    who.name.clone().unwrap_or_else(|| who.node.short(8))
}

/// Describes a node that is not a member. It gives itself its name, so the name proves nothing.
pub(in crate::daemon::service) fn unproven(who: &Who) -> String {
    let key = who.node.short(8);
    match &who.name {
        Some(name) => format!("a node that calls itself {name} (key {key})"),
        None => format!("a node without a valid name (key {key})"),
    }
}

fn key(who: &Who) -> String {
    who.node.to_string()
}

fn down_reason(why: DownReason) -> &'static str {
    match why {
        DownReason::Failed => "does not answer",
        DownReason::Away => "stopped and did not come back in time",
        DownReason::Left => "left the cluster",
        DownReason::Expelled => "is no longer a member",
    }
}

fn fetch(fetched: &Fetched, why: Option<String>) -> FetchInfo {
    FetchInfo {
        hash: fetched.hash.to_string(),
        size_bytes: fetched.size_bytes,
        name: (fetched.name.as_ref()).map(|path| Named::new(path.as_bytes())),
        why,
    }
}

/// Describes a change of the membership, or one that was refused.
fn membership(news: &News) -> EventKind {
    let message = match news {
        News::Joined(who, by) => {
            format!("{} was admitted by {}", peer_name(who), peer_name(by))
        }
        News::JoinRefused { who, from, why, .. } => {
            format!("cannot admit {} at {from}: {why}", unproven(who))
        }
        News::Expelled(who, by) if who.node == by.node => {
            format!("{} left the cluster for good", peer_name(who))
        }
        News::Expelled(who, by) => {
            format!("{} was put out by {}", peer_name(who), peer_name(by))
        }
        News::Rotated(by) => format!("{} gave the members a fresh secret", peer_name(by)),
        _ => String::new(),
    };
    EventKind::Membership { message }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn events_left_out_have_the_time_of_the_last_of_them() {
        let mut left_out = LeftOut::default();
        for second in [5, 7] {
            left_out.add(&Noted {
                at: UNIX_EPOCH + Duration::from_secs(second),
                news: News::Removed(SharedPath::new(&b"a"[..]).unwrap(), None),
            });
        }
        assert_eq!(left_out.count, 2);
        assert_eq!(left_out.last, Timestamp::from_second(7).ok());
    }
}
