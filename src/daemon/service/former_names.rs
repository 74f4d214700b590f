//! Names of nodes that the settings gave while this node was in an earlier cluster.
//!
//! The node holds a list of these names. A name in this list stands for no node until it is
//! confirmed, because a node of the new cluster may have it by chance. This module lists the names
//! that the settings give, confirms names, and reports which settings have no effect meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::services::Services;
use crate::daemon::config::{ALL_NODES, GROUP_MARK, Group, ShareSettings, readers_of};
use p2pfs_node::{Condition, Finding, NodeError};
use p2pfs_types::files::shell_word;
use p2pfs_types::id::NodeId;

/// Maximum time for which a reload or a start waits until forgotten names are stored.
const STORED_LIMIT: Duration = Duration::from_secs(1);

/// Subject of the finding about senders to the inbox.
const INBOX: &str = "inbox.from";

/// Returns the names of nodes to which the settings give rights: the members of groups, the readers
/// of shares and the senders to the inbox. Leaves out nodes that are given by key.
pub(super) fn given_names(services: &Services) -> BTreeSet<String> {
    let in_force = services.settings.in_force.load();
    let config = &in_force.config;
    let saved = services.shares.saved.lock();
    let shares = config.share.iter().chain(saved.iter());
    let readers = shares.flat_map(|share| share.readers.iter().flatten());
    let members = config.groups.iter().flat_map(|group| &group.members);
    // The list of senders to the inbox stays in force as it was at this start until the next start.
    let at_start = &services.settings.at_start.inbox.from;
    let senders = config.inbox.from.iter().chain(at_start);
    let listed = readers.chain(members).chain(senders);
    listed.filter(|it| is_name_of_node(it)).cloned().collect()
}

/// Lets a name of an earlier cluster stand for a node of this cluster, if the settings no longer
/// give the name or it is among the `confirmed` ones.
///
/// # Errors
/// Those of [`NodeMembership::retain_former_names`](p2pfs_node::NodeMembership). No name is confirmed
/// then.
pub(super) async fn confirm(services: &Services, confirmed: Vec<String>) -> Result<(), NodeError> {
    let mut given = given_names(services);
    given.retain(|name| !confirmed.contains(name));
    let is_former = move |name: &str| given.contains(name);
    let membership = services.node.membership();
    membership.retain_former_names(is_former).await
}

/// Forgets the names of an earlier cluster that the settings no longer give. If the user writes
/// such a name again, it stands for a node of this cluster. Does not wait longer than
/// [`STORED_LIMIT`] for a disk that hangs. The names are forgotten once it goes on.
pub(super) async fn drop_names_not_given(services: &Services) {
    let forgotten = timeout(STORED_LIMIT, confirm(services, Vec::new())).await;
    if let Ok(Err(error)) = forgotten {
        tracing::warn!("names of an earlier cluster stay without a meaning: {error}");
    }
}

/// Begins and ends the condition of settings with names of an earlier cluster.
pub(super) fn review(services: &Services) {
    let trust = services.node.membership().view();
    let former = trust.former_names();
    let mut found = Vec::new();
    if !former.is_empty() {
        let in_force = services.settings.in_force.load();
        let config = &in_force.config;
        let saved = services.shares.saved.lock();
        let shares = config.share.iter().map(|share| (share, false));
        let shares = shares.chain(saved.iter().map(|share| (share, true)));
        found.extend(shares.filter_map(|(share, is_saved)| {
            let names = former_of(share, &config.groups, former)?;
            Some(finding_of_share(share, &names, is_saved))
        }));
        let senders = services.settings.at_start.inbox.from.iter();
        let senders: Vec<_> = senders.filter(|it| former.contains(*it)).collect();
        found.extend((!senders.is_empty()).then(|| finding_of_inbox(&senders)));
    }
    services
        .node
        .events()
        .replace(Condition::FormerNames, found);
}

/// Returns whether a listed reader or sender is the name of a node, rather than a key, a group or
/// [`ALL_NODES`].
fn is_name_of_node(listed: &str) -> bool {
    listed.parse::<NodeId>().is_err() && listed != ALL_NODES && !listed.starts_with(GROUP_MARK)
}

/// Returns the readers of a share that are names of an earlier cluster.
fn former_of(
    share: &ShareSettings,
    groups: &[Group],
    former: &BTreeSet<String>,
) -> Option<Vec<String>> {
    let mut readers = readers_of(share.readers.as_deref(), groups)?;
    readers.retain(|reader| former.contains(reader));
    (!readers.is_empty()).then_some(readers)
}

fn finding_of_share(share: &ShareSettings, names: &[String], is_saved: bool) -> (String, Finding) {
    let dir = share.dir.display().to_string();
    let names = names.join(", ");
    let said = format!("{dir} is not offered to {names}: named in an earlier cluster");
    let readers = share.readers.iter().flatten();
    let is_direct = readers.clone().all(|it| !it.starts_with(GROUP_MARK));
    let remedy = if is_saved && is_direct {
        let readers: Vec<_> = readers.map(String::as_str).collect();
        let (quoted, readers) = (shell_word(&share.dir), readers.join(","));
        format!(
            "if members of this cluster are meant: p2pfs share add {quoted} --readers {readers}"
        )
    } else {
        BY_KEY.to_owned()
    };
    (dir, Finding::new(said).remedy(remedy).for_owner())
}

fn finding_of_inbox(senders: &[&String]) -> (String, Finding) {
    let senders: Vec<_> = senders.iter().map(|it| it.as_str()).collect();
    let names = senders.join(", ");
    let said = format!("the inbox takes nothing from {names}: named in an earlier cluster");
    let finding = Finding::new(said).remedy(BY_KEY_OF_SENDER).for_owner();
    (INBOX.to_owned(), finding)
}

/// Remedy for a reader's name in the configuration.
const BY_KEY: &str = "write the node's key instead (p2pfs trust --json), or take the name out, \
                      reload, put it back and reload again";
/// Remedy for a sender's name in the configuration. The list of senders changes only at a start.
const BY_KEY_OF_SENDER: &str = "write the node's key instead (p2pfs trust --json) and restart, or \
                                take the name out, restart, put it back and restart again";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_nodes_lose_their_meaning() {
        let key = NodeId::new([7; 32]).to_string();
        for other in ["*", "@office", &key] {
            assert!(!is_name_of_node(other), "{other}");
        }
        assert!(is_name_of_node("bob"));
    }

    #[test]
    fn members_of_groups_are_found_among_the_readers() {
        let groups = [Group {
            name: "office".to_owned(),
            members: vec!["bob".to_owned(), "carol".to_owned()],
        }];
        let share = ShareSettings {
            readers: Some(vec!["@office".to_owned(), "dave".to_owned()]),
            ..ShareSettings::new("/srv".into())
        };
        let former = ["bob", "dave"].map(str::to_owned).into();
        let found = former_of(&share, &groups, &former).unwrap();
        assert_eq!(found, ["bob", "dave"]);
        let (_, finding) = finding_of_share(&share, &found, true);
        assert_eq!(finding.remedy.as_deref(), Some(BY_KEY));
    }

    #[test]
    fn remedy_for_a_sender_needs_no_reload() {
        let (_, finding) = finding_of_inbox(&[&"bob".to_owned()]);
        let remedy = finding.remedy.unwrap();
        assert!(
            remedy.contains("restart") && !remedy.contains("reload"),
            "{remedy}"
        );
    }
}
