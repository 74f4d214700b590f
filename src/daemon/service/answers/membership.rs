//! Checks whether the other members accept this node, as far as this node can know.
//!
//! A node that was expelled while it was away learns of the expulsion from the first member that it
//! dials. A node that a member refuses without a reason reports the possible causes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Services;
use super::network::{ClockGap, unheard};
use super::trust::time_of;
use crate::daemon::control::{Check, CheckState};
use crate::daemon::service::seeds;
use p2pfs_node::Probed;
use p2pfs_types::id::NodeId;

/// Maximum known members to dial if no other node is alive. If one member refuses this node, the
/// others most likely do, too.
const ASKED_WHEN_ALONE: usize = 4;
/// Remedy for an expelled node.
const COME_BACK: &str = "to come back: p2pfs invite on a member that may invite, then p2pfs join - \
                         here";
/// Remedy for two nodes with different secrets in a cluster with a secret file, where invitations
/// are refused.
pub(super) const SAME_SECRET: &str = "give both nodes the same secret file";

/// Reports which node expelled this node and when, with the remedy. Returns `None` if no other node
/// expelled it.
pub(in crate::daemon::service) fn check_membership(services: &Services) -> Option<Check> {
    let me = services.node.id();
    let ledger = services.node.membership().keyring().ledger()?;
    let word = &ledger.expulsion(&me)?.statement;
    // A node that left by itself needs no report.
    (word.by != me).then(|| {
        let by = services.node.peers().name_of(&word.by);
        let at = time_of(word.at_s).strftime("%Y-%m-%d %H:%M UTC");
        let found = format!("this node was expelled by {by} on {at}");
        Check::failed("membership", found, COME_BACK)
    })
}

/// If another machine uses this node's key, replaces the remedies of all failed checks of seeds and
/// peers. A peer may have reported about the other machine, so a firewall may not be the cause.
pub(super) fn unless_copied(services: &Services, mut checks: Vec<Check>) -> Vec<Check> {
    let is_copied = services.node.health().is_copied();
    let is_of_others =
        |check: &Check| check.name.starts_with("seed ") || check.name.starts_with("peer ");
    let doubtful = checks
        .iter_mut()
        .filter(|it| is_copied && it.state == CheckState::Failed && is_of_others(it));
    doubtful.for_each(|check| {
        check.remedy = Some("do what the line of the key says".to_owned());
    });
    checks
}

/// Returns whether the node that refused this node is a member, as far as this node knows.
pub(super) fn refuses(services: &Services, node: &NodeId) -> bool {
    let keyring = services.node.membership().keyring();
    keyring.has_ledger() && keyring.is_member(node)
}

/// Explains the refusal by a member.
pub(super) fn refused(services: &Services, name: String, address: SocketAddr) -> Check {
    let found = format!("{address} takes this node for no member");
    match check_membership(services) {
        Some(_) => Check::failed(name, found, "do what the line of membership says"),
        // Without certificates no node can be expelled, so the secrets differ.
        None if !services.node.membership().keyring().has_ledger() => {
            let found = format!("{found}: it has another secret now");
            Check::failed(name, found, SAME_SECRET)
        }
        None => {
            let found = format!(
                "{found}: either this node was expelled, or that one is in another cluster now"
            );
            let remedy = format!("p2pfs trust there shows which; {COME_BACK}");
            Check::failed(name, found, remedy)
        }
    }
}

/// Probes some of the last known members that are not seeds. Reports members that refuse this node.
/// For members that answer over TCP, reports why no datagram arrives from them.
pub(super) async fn check_last_known(services: &Services, patience: Duration) -> Vec<Check> {
    if !services.node.membership().keyring().has_ledger() {
        return vec![];
    }
    let seeds = seeds::addresses(&services.settings.in_force.load().config.seeds);
    let mut known = services.node.peers().last_addresses();
    known.retain(|address| !seeds.contains(address));
    let mut asked = JoinSet::new();
    for address in known.into_iter().take(ASKED_WHEN_ALONE) {
        let node = services.node.clone();
        asked.spawn(async move {
            let deadline = Instant::now() + patience;
            let probed = node.peers().probe(address, patience).await;
            let reached = match probed {
                Probed::Member(there) => {
                    let asked = node.peers().ask_to_dial_back(there, address);
                    timeout_at(deadline, asked).await.ok().and_then(Result::ok)
                }
                _ => None,
            };
            (address, probed, reached.and_then(|it| ClockGap::now(&it)))
        });
    }
    let answers = asked.join_all().await.into_iter();
    let found = answers.filter_map(|(address, probed, gap)| match probed {
        Probed::Stranger(node) if refuses(services, &node) => {
            let name = format!("peer {}", services.node.peers().name_of(&node));
            Some(refused(services, name, address))
        }
        Probed::Member(node) => Some(unheard(
            &services.node.peers().name_of(&node),
            address.port(),
            gap.as_ref(),
        )),
        _ => None,
    });
    found.collect()
}

/// Reports that no other node is there and no seed is configured, as the check `name`.
pub(super) fn check_peerless(services: &Services, name: &str) -> Check {
    let keyring = services.node.membership().keyring();
    let members = keyring.ledger().map_or(0, |it| it.members().count());
    let others = members.saturating_sub(1);
    match others {
        0 if !keyring.has_ledger() => Check::warning(
            name,
            "no other node is known",
            "give another node the same secret file, and name it as a seed",
        ),
        0 => Check::warning(
            name,
            "no other node is known",
            "bring one in: p2pfs invite here and p2pfs join there, or name a seed",
        ),
        _ => Check::warning(
            name,
            format!("none of the {others} other members is there"),
            "start p2pfs on one of them, or name its address as a seed if it has another now",
        ),
    }
}
