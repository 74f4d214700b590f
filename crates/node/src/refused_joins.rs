//! Nodes that asked for admission by an invitation and were refused. Only those that prove an
//! invitation are told the reason, so this node reports it with their address.
//!
//! Any node on the network can cause a refusal. So each host is reported once a minute at most for
//! one reason, and all hosts together at a limited rate. A refused node whose invitation this node
//! remembers is a guest. All other nodes are strangers, also a node with a token from before a
//! restart of this daemon. Strangers have a slower rate of their own. Otherwise their guesses could
//! hide the refusal of a guest, and displace the other events.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::events::{Audience, EventLog, News, Who};
use super::inbox::ChargedSender;
use super::names::Names;
use p2pfs_proto::trust::InviteRefusal;
use p2pfs_proto::wire::canonical;
use p2pfs_transfer::net::peer::{JoinRefusal, PeerNet, RefusedJoin};
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::offences::{OffenceLog, Offending};

/// Maximum number of reports about strangers in a burst.
const STRANGERS_BURST: u32 = 8;
/// Time after which one more report about strangers is allowed, after a burst. These are 144 a day,
/// of the [`EVENTS_KEPT`](super::events::EVENTS_KEPT) events that the history has.
const STRANGERS_PERIOD: Duration = Duration::from_secs(600);

/// A refusal, as the logs count it.
#[derive(Clone, Copy)]
struct Refusal;

impl Offending for Refusal {}

/// A host, the kind of the reason for which it is refused, and the name that it cannot have.
type RefusedHost = (ChargedSender, &'static str, Option<NodeName>);

/// The refusals so far.
struct RefusalLogs {
    /// Hosts with an invitation that this node remembers.
    guests: OffenceLog<RefusedHost, Refusal>,
    /// All other hosts.
    strangers: OffenceLog<RefusedHost, Refusal>,
}

/// The kind of a refused node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JoinerKind {
    /// A node that has proven an invitation that this node remembers.
    Guest,
    /// Any other node.
    Stranger,
}

impl RefusalLogs {
    fn new(now: Instant) -> Self {
        Self {
            guests: OffenceLog::new(now),
            strangers: OffenceLog::paced(STRANGERS_PERIOD, STRANGERS_BURST, now),
        }
    }

    /// Counts a refusal. Returns whether to report it.
    fn record(&mut self, now: Instant, from: SocketAddr, why: &JoinRefusal) -> bool {
        let (joiner, kind) = kind_of(why);
        let host = (ChargedSender::at(from), kind, refused_name(why).cloned());
        let log = match joiner {
            JoinerKind::Guest => &mut self.guests,
            JoinerKind::Stranger => &mut self.strangers,
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
            events.record(report(from, refused, &|node| names.of(node)));
        }
    }));
}

fn report(from: SocketAddr, refused: RefusedJoin, name_of: &dyn Fn(&NodeId) -> String) -> News {
    let why = reason(&refused.why, name_of);
    let audience = match refused.why {
        // The error names a file of the state directory.
        JoinRefusal::NotRecorded(_) => Audience::Owner,
        _ => Audience::Everybody,
    };
    News::JoinRefused {
        who: Who {
            node: refused.node,
            name: refused.name.map(|name| name.to_string()),
        },
        from: canonical(from).ip(),
        why,
        audience,
    }
}

/// Returns the kind of the node and the kind of the reason.
fn kind_of(why: &JoinRefusal) -> (JoinerKind, &'static str) {
    use JoinerKind::{Guest, Stranger};
    match why {
        JoinRefusal::BadName => (Stranger, "name"),
        JoinRefusal::CannotAdmit(_) => (Stranger, "right"),
        JoinRefusal::Invite(InviteRefusal::Unknown) => (Stranger, "unknown"),
        JoinRefusal::Invite(InviteRefusal::Expired) => (Guest, "expired"),
        JoinRefusal::Invite(InviteRefusal::Used(_)) => (Guest, "used"),
        JoinRefusal::Invite(InviteRefusal::OtherCluster) => (Guest, "cluster"),
        JoinRefusal::Invite(InviteRefusal::BeforeExpulsion) => (Guest, "expulsion"),
        JoinRefusal::Invite(InviteRefusal::NameTaken(_)) => (Guest, "taken"),
        JoinRefusal::Invite(InviteRefusal::NameReserved(_)) => (Guest, "reserved"),
        JoinRefusal::NotRecorded(_) => (Guest, "unrecorded"),
        JoinRefusal::Stopping => (Guest, "stopping"),
    }
}

/// Returns the name because of which a guest is refused.
fn refused_name(why: &JoinRefusal) -> Option<&NodeName> {
    match why {
        JoinRefusal::Invite(InviteRefusal::NameTaken(name) | InviteRefusal::NameReserved(name)) => {
            Some(name)
        }
        _ => None,
    }
}

/// Returns the reason and the remedy.
fn reason(why: &JoinRefusal, name_of: &dyn Fn(&NodeId) -> String) -> String {
    const AGAIN: &str = "make another: p2pfs invite";
    let invite = match why {
        JoinRefusal::BadName => {
            return "its name is not valid; set the name in the configuration of that node"
                .to_owned();
        }
        JoinRefusal::CannotAdmit(error) => return error.to_string(),
        JoinRefusal::NotRecorded(error) => return format!("{error}; {AGAIN}"),
        JoinRefusal::Stopping => return format!("this node is stopping; {AGAIN}"),
        JoinRefusal::Invite(invite) => invite,
    };
    match invite {
        InviteRefusal::Unknown => {
            format!("this node has no such invitation (they end when its daemon stops); {AGAIN}")
        }
        InviteRefusal::Expired => format!("its invitation has expired; {AGAIN}"),
        InviteRefusal::Used(by) => {
            let by = name_of(by);
            format!("its invitation was used already, by {by}; {AGAIN}")
        }
        InviteRefusal::OtherCluster => {
            format!("this node changed its cluster since it made the invitation; {AGAIN}")
        }
        InviteRefusal::BeforeExpulsion => {
            format!("that node was expelled after the invitation was made; {AGAIN}")
        }
        InviteRefusal::NameTaken(name) => format!(
            "another member is called {name}; p2pfs invite --name OTHER names the joining node"
        ),
        InviteRefusal::NameReserved(name) => format!(
            "the settings of this node give rights to the name {name}; if the joining node is to \
             have these rights: p2pfs invite --name {name}; otherwise: p2pfs invite --name OTHER"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::EVENTS_KEPT;
    use p2pfs_proto::trust::TrustError;

    fn host(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 1378))
    }

    fn of_invite(why: InviteRefusal) -> JoinRefusal {
        JoinRefusal::Invite(why)
    }

    fn named(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    #[test]
    fn a_host_is_reported_once_a_minute_for_each_reason() {
        let now = Instant::now();
        let mut logs = RefusalLogs::new(now);
        for why in [InviteRefusal::Expired, InviteRefusal::OtherCluster] {
            let why = of_invite(why);
            let reported = (0..120).filter(|second| {
                let at = now + Duration::from_secs(*second);
                logs.record(at, host(1), &why)
            });
            assert_eq!(reported.count(), 2, "{why:?}");
        }
    }

    #[test]
    fn a_guest_that_tries_another_name_is_reported_at_once() {
        let now = Instant::now();
        let mut logs = RefusalLogs::new(now);
        for (name, is_reported) in [("one", true), ("one", false), ("two", true)] {
            let why = of_invite(InviteRefusal::NameTaken(named(name)));
            assert_eq!(logs.record(now, host(1), &why), is_reported, "{name}");
        }
    }

    #[test]
    fn guesses_are_rarely_reported_and_hide_no_refusal_of_a_remembered_invitation() {
        const DAY_S: u64 = 24 * 3600;
        let now = Instant::now();
        let mut logs = RefusalLogs::new(now);
        let guess = of_invite(InviteRefusal::Unknown);
        let reported = (0..DAY_S).filter(|second| {
            let at = now + Duration::from_secs(*second);
            logs.record(at, host(second.to_le_bytes()[0]), &guess)
        });
        let count = reported.count();
        assert!(count < EVENTS_KEPT / 5, "{count} reports");
        let later = now + Duration::from_secs(DAY_S);
        assert!(logs.record(later, host(0), &of_invite(InviteRefusal::Expired)));
    }

    #[test]
    fn a_refusal_that_names_a_file_of_the_state_is_visible_only_to_the_owner() {
        let report_of = |why| {
            let refused = RefusedJoin {
                node: NodeId::new([2; 32]),
                name: Some(named("anna")),
                why,
            };
            report(host(1), refused, &|node| node.short(8))
        };
        let expired = report_of(of_invite(InviteRefusal::Expired));
        assert!(!expired.is_for_owner(), "{expired:?}");
        let full = report_of(JoinRefusal::NotRecorded(TrustError::File {
            action: "write",
            path: "/srv/state/ledger".into(),
            source: std::io::ErrorKind::StorageFull.into(),
        }));
        assert!(full.is_for_owner(), "{full:?}");
    }

    #[test]
    fn a_name_with_rights_is_given_only_if_the_joining_node_is_to_have_them() {
        let reserved = of_invite(InviteRefusal::NameReserved(named("reader")));
        let reason = reason(&reserved, &|node| node.short(8));
        assert!(
            reason.contains("if the joining node is to have"),
            "{reason}"
        );
        assert!(reason.ends_with("p2pfs invite --name OTHER"), "{reason}");
    }
}
