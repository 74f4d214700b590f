//! Nodes that asked for admission by an invitation and were refused. They do not learn the reason,
//! so this node reports it with their address.
//!
//! Any node on the network can cause a refusal. So each host is reported once a minute at most for
//! one reason, and all hosts together at the rate of an [`OffenceLog`]. Hosts without an invitation
//! of this node have a log of their own. Otherwise guesses could hide the refusal of a guest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::events::{EventLog, News, Who};
use super::inbox::ChargedSender;
use super::names::Names;
use p2pfs_proto::trust::InviteRefusal;
use p2pfs_proto::wire::canonical;
use p2pfs_transfer::net::peer::{JoinRefusal, PeerNet, RefusedJoin};
use p2pfs_types::offences::{OffenceLog, Offending};

/// A refusal, as the logs count it.
#[derive(Clone, Copy)]
struct Refusal;

impl Offending for Refusal {}

/// A host, and the reason for which it is refused.
type RefusedHost = (ChargedSender, &'static str);

/// The refusals so far.
struct RefusalLogs {
    /// Hosts with an invitation that this node made.
    invited: OffenceLog<RefusedHost, Refusal>,
    /// All other hosts.
    strangers: OffenceLog<RefusedHost, Refusal>,
}

impl RefusalLogs {
    fn new(now: Instant) -> Self {
        Self {
            invited: OffenceLog::new(now),
            strangers: OffenceLog::new(now),
        }
    }

    /// Counts a refusal. Returns whether to report it.
    fn record(&mut self, now: Instant, from: SocketAddr, why: &JoinRefusal) -> bool {
        let (is_invited, reason) = kind_of(why);
        let host = (ChargedSender::at(from), reason);
        let log = if is_invited {
            &mut self.invited
        } else {
            &mut self.strangers
        };
        log.record(now, &host, Refusal)
    }
}

/// Reports refusals on `net` as events from now on.
pub(super) fn watch(net: &PeerNet, events: &EventLog, names: &Names) {
    let logs = Mutex::new(RefusalLogs::new(Instant::now()));
    let (events, names) = (events.clone(), names.clone());
    net.set_on_refused_join(Arc::new(move |from, refused: RefusedJoin| {
        if logs.lock().record(Instant::now(), from, &refused.why) {
            events.record(report(from, refused, &names));
        }
    }));
}

fn report(from: SocketAddr, refused: RefusedJoin, names: &Names) -> News {
    let why = reason(&refused.why, names);
    News::JoinRefused {
        who: Who {
            node: refused.node,
            name: refused.name.map(|name| name.to_string()),
        },
        from: canonical(from).ip(),
        why,
    }
}

/// Returns whether the node has proven an invitation of this node, and the kind of the reason.
fn kind_of(why: &JoinRefusal) -> (bool, &'static str) {
    match why {
        JoinRefusal::BadName => (false, "name"),
        JoinRefusal::CannotAdmit(_) => (false, "right"),
        JoinRefusal::Invite(InviteRefusal::Unknown) => (false, "unknown"),
        JoinRefusal::Invite(InviteRefusal::Expired) => (true, "expired"),
        JoinRefusal::Invite(InviteRefusal::Used(_)) => (true, "used"),
        JoinRefusal::Invite(InviteRefusal::OtherCluster) => (true, "cluster"),
        JoinRefusal::Invite(InviteRefusal::BeforeExpulsion) => (true, "expulsion"),
        JoinRefusal::Invite(InviteRefusal::NameTaken(_)) => (true, "taken"),
        JoinRefusal::Invite(InviteRefusal::NameReserved(_)) => (true, "reserved"),
        JoinRefusal::NotRecorded(_) => (true, "unrecorded"),
    }
}

/// Returns the reason and the remedy.
fn reason(why: &JoinRefusal, names: &Names) -> String {
    const AGAIN: &str = "make another: p2pfs invite";
    let invite = match why {
        JoinRefusal::BadName => return "it gives itself no valid name".to_owned(),
        JoinRefusal::CannotAdmit(error) => return error.to_string(),
        JoinRefusal::NotRecorded(error) => return format!("{error}; {AGAIN}"),
        JoinRefusal::Invite(invite) => invite,
    };
    match invite {
        InviteRefusal::Unknown => format!(
            "its token fits no invitation of this node, which ends with the daemon that made it; \
             {AGAIN}"
        ),
        InviteRefusal::Expired => format!("its invitation has expired; {AGAIN}"),
        InviteRefusal::Used(by) => {
            let by = names.of(by);
            format!("its invitation was used already, by {by}; {AGAIN}")
        }
        InviteRefusal::OtherCluster => format!(
            "its invitation is for the cluster in which this node was when it made it; {AGAIN}"
        ),
        InviteRefusal::BeforeExpulsion => {
            format!("it was expelled after its invitation was made; {AGAIN}")
        }
        InviteRefusal::NameTaken(name) => {
            format!("another member is called {name}; p2pfs invite --name OTHER gives it a name")
        }
        InviteRefusal::NameReserved(name) => format!(
            "the settings of this node give rights to the name {name}; p2pfs invite --name {name} \
             gives it this name"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn host(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 1378))
    }

    fn of_invite(why: InviteRefusal) -> JoinRefusal {
        JoinRefusal::Invite(why)
    }

    #[test]
    fn a_host_is_reported_once_a_minute_for_each_reason() {
        let now = Instant::now();
        let mut logs = RefusalLogs::new(now);
        for why in [InviteRefusal::Expired, InviteRefusal::OtherCluster] {
            let why = of_invite(why);
            let told = (0..120).filter(|second| {
                let at = now + Duration::from_secs(*second);
                logs.record(at, host(1), &why)
            });
            assert_eq!(told.count(), 2, "{why:?}");
        }
    }

    #[test]
    fn guesses_from_many_hosts_are_rarely_reported_and_hide_no_guest() {
        let now = Instant::now();
        let mut logs = RefusalLogs::new(now);
        let guess = of_invite(InviteRefusal::Unknown);
        let told = (0..=255).filter(|number| logs.record(now, host(*number), &guess));
        assert!(told.count() < 20);
        assert!(logs.record(now, host(0), &of_invite(InviteRefusal::Expired)));
    }
}
