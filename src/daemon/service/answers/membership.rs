//! Checks whether the other members accept this node, as far as this node can know.
//!
//! A node that was expelled while it was away learns of the expulsion from the first member that it
//! dials. A node that a member refuses without a reason reports the possible causes.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::Services;
use super::network::{ClockGap, alive_of, unheard};
use super::presence::{ProbedMachine, probe};
use super::trust::time_of;
use crate::daemon::control::{Check, CheckState};
use crate::daemon::service::seeds;
use p2pfs_node::api::MemberState;
use p2pfs_node::{MemberReport, Probed};
use p2pfs_types::id::NodeId;

/// Maximum nodes to dial that are not alive. If one member refuses this node, or none answers, the
/// others most likely are like it.
const ABSENT_PROBED_MAX: usize = 4;
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
    let trust = services.node.membership().view();
    let word = &trust.ledger()?.departed().expulsion(&me)?.statement;
    // A node that left by itself needs no report.
    (word.by != me).then(|| {
        let by = services.node.peers().name_of(&word.by);
        let at = time_of(word.at_s).strftime("%Y-%m-%d %H:%M UTC");
        let found = format!("this node was expelled by {by} on {at}");
        Check::failed("membership", found, COME_BACK)
    })
}

/// If another machine uses this node's key, replaces the remedies of all warnings and failed checks
/// of seeds and peers. A peer may have reported about the other machine, so a firewall may not be the cause.
pub(super) fn unless_copied(services: &Services, mut checks: Vec<Check>) -> Vec<Check> {
    let is_copied = services.node.health().is_copied();
    let is_of_others =
        |check: &Check| check.name.starts_with("seed ") || check.name.starts_with("peer ");
    let doubtful = checks
        .iter_mut()
        .filter(|it| is_copied && it.remedy.is_some() && is_of_others(it));
    doubtful.for_each(|check| {
        check.remedy = Some("do what the line of the key says".to_owned());
    });
    checks
}

/// Returns whether the node that refused this node is a member, as far as this node knows.
pub(super) fn refuses(services: &Services, node: &NodeId) -> bool {
    let trust = services.node.membership().view();
    trust.has_ledger() && trust.is_member(node)
}

/// Explains the refusal by a member.
pub(super) fn refused(services: &Services, name: String, address: SocketAddr) -> Check {
    let found = format!("{address} takes this node for no member");
    match check_membership(services) {
        Some(_) => Check::failed(name, found, "do what the line of membership says"),
        // Without certificates no node can be expelled, so the secrets differ.
        None if !services.node.membership().view().has_ledger() => {
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

/// Probes some of the nodes that are not alive and not seeds: members that are suspect or down, and,
/// if no other node is alive, the last known addresses. Reports those that refuse this node, those
/// that answer over TCP only, and for the others why they do not answer.
pub(super) async fn check_absent(
    services: &Services,
    members: &[MemberReport],
    patience: Duration,
) -> Vec<Check> {
    let is_alone = alive_of(members) == 0;
    let seeds = seeds::addresses(&services.settings.in_force.load().config.seeds);
    let mut absent = gone(members);
    if is_alone {
        let last = services.node.peers().last_addresses().into_iter();
        absent.extend(last.map(|address| (None, address)));
    }
    let mut asked = JoinSet::new();
    let mut dialled = BTreeSet::from_iter(seeds);
    absent.retain(|(_, address)| dialled.insert(*address));
    for (node, address) in absent.into_iter().take(ABSENT_PROBED_MAX) {
        let own = services.node.clone();
        asked.spawn(async move {
            let deadline = Instant::now() + patience;
            let machine = probe(&own, address, patience).await;
            let reached = match machine.probed {
                Probed::Member(there) => {
                    let asked = own.peers().ask_to_dial_back(there, address);
                    timeout_at(deadline, asked).await.ok().and_then(Result::ok)
                }
                _ => None,
            };
            (node, machine, reached.and_then(|it| ClockGap::now(&it)))
        });
    }
    let answers = asked.join_all().await.into_iter();
    let found = answers.filter_map(|(node, machine, gap)| {
        let check = absent_trouble(services, node, &machine, gap.as_ref())?;
        let check = unless_copied(services, vec![check]).pop()?;
        Some(match check.state {
            _ if is_alone => check,
            // No condition of status says that a single node is absent.
            CheckState::Failed => Check {
                state: CheckState::Warning,
                ..check
            },
            // A machine that is switched off is normal while others are there.
            CheckState::Warning if gap.is_none() => as_note(&check),
            _ => check,
        })
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Returns the members that are suspect or down, with their addresses, the latest first.
fn gone(members: &[MemberReport]) -> Vec<(Option<NodeId>, SocketAddr)> {
    let is_gone =
        |it: &&MemberReport| matches!(it.status.state, MemberState::Suspect | MemberState::Down);
    let mut gone: Vec<_> = members.iter().filter(is_gone).collect();
    gone.sort_by_key(|it| Reverse(it.since));
    let contacts = gone.into_iter().map(|it| it.status.member);
    contacts.map(|it| (Some(it.node), it.address)).collect()
}

/// Explains why a node that is not alive does not answer. Only its address is known if `node` is
/// `None`. Returns `None` if there is nothing to say.
fn absent_trouble(
    services: &Services,
    node: Option<NodeId>,
    machine: &ProbedMachine,
    gap: Option<&ClockGap>,
) -> Option<Check> {
    let address = machine.address;
    let name_of = |node: &NodeId| services.node.peers().name_of(node);
    match &machine.probed {
        Probed::Member(there) => Some(unheard(&name_of(there), address.port(), gap)),
        Probed::Stranger(there) if refuses(services, there) || node == Some(*there) => {
            let name = format!("peer {}", name_of(there));
            Some(refused(services, name, address))
        }
        _ => {
            let (name, host) = match &node {
                Some(node) => (name_of(node), name_of(node)),
                None => (address.to_string(), address.ip().to_string()),
            };
            machine.trouble(&format!("peer {name}"), &host)
        }
    }
}

/// Returns a check as a note.
fn as_note(check: &Check) -> Check {
    let remedy = check.remedy.as_deref().unwrap_or_default();
    Check::note(&check.name, format!("{}; {remedy}", check.found))
}

/// Reports that no other node is there and no seed is configured, as the check `name`.
pub(super) fn check_peerless(services: &Services, name: &str) -> Check {
    let trust = services.node.membership().view();
    let members = trust.ledger().map_or(0, |it| it.members().count());
    let others = members.saturating_sub(1);
    match others {
        0 if !trust.has_ledger() => Check::warning(
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
