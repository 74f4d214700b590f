//! Answers about the members of the cluster.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::paths::shared_path;
use super::{Asked, Services, failed, network};
use crate::daemon::config::Group;
use crate::daemon::config::units::write_count;
use crate::daemon::control::{
    Admitted, Answer, Expelled, Failure, FailureKind, GoneNode, Invitation, Joined, Left, Named,
    Nothing, OwnedPath, Rotated, Trust, TrustStep, TrustedNode, parameters,
};
use crate::daemon::service::{former_names, run};
use p2pfs_node::api::{MemberState, Resignation, in_history};
use p2pfs_node::{NodeError, NotForgotten, StopProblem};
use p2pfs_proto::trust::{Certificate, Claim, Grant, InviteToken, Ledger, SignedStatement};
use p2pfs_types::id::{NodeId, NodeName};
use p2pfs_types::path::{SharedPath, escape};

/// Maximum lifetime of an invitation: a week.
const INVITE_MAX_S: u64 = 7 * 24 * 3600;

/// Maximum nodes that a refusal names.
const NAMED_MAX: usize = 5;

impl Answer<Asked> for parameters::Invite {
    async fn answer(self, asked: &mut Asked) -> Result<Invitation, Failure> {
        let grant = Grant {
            admin: self.admin,
            name: self.name,
        };
        invite(&asked.services, self.lifetime_s, grant)
    }
}

impl Answer<Asked> for parameters::Admitted {
    async fn answer(self, asked: &mut Asked) -> Result<Admitted, Failure> {
        admitted(&asked.services, &self.peer)
    }
}

impl Answer<Asked> for parameters::Expel {
    async fn answer(self, asked: &mut Asked) -> Result<Expelled, Failure> {
        expel(&asked.services, &self.peer, self.with_admitted).await
    }
}

impl Answer<Asked> for parameters::Rotate {
    async fn answer(self, asked: &mut Asked) -> Result<Rotated, Failure> {
        rotate(&asked.services).await
    }
}

impl Answer<Asked> for parameters::Own {
    async fn answer(self, asked: &mut Asked) -> Result<Nothing, Failure> {
        own(&asked.services, &self.path, self.peer, self.confirmed).await
    }
}

impl Answer<Asked> for parameters::Trust {
    async fn answer(self, asked: &mut Asked) -> Result<Trust, Failure> {
        Ok(trust(&asked.services))
    }
}

impl Answer<Asked> for parameters::Forget {
    async fn answer(self, asked: &mut Asked) -> Result<Nothing, Failure> {
        forget(&asked.services, &self.peer).await
    }
}

impl Answer<Asked> for parameters::Join {
    async fn answer(self, asked: &mut Asked) -> Result<Joined, Failure> {
        join(&asked.services, &self.token).await
    }
}

impl Answer<Asked> for parameters::Leave {
    async fn answer(self, asked: &mut Asked) -> Result<Left, Failure> {
        leave_cluster(&asked.services).await
    }
}

pub(super) fn invite(
    services: &Services,
    lifetime_s: u64,
    grant: Grant,
) -> Result<Invitation, Failure> {
    if !(1..=INVITE_MAX_S).contains(&lifetime_s) {
        let message = format!("an invitation serves 1 s to a week, not {lifetime_s} s");
        return Err(Failure::new(FailureKind::Invalid, message));
    }
    if let Some(name) = &grant.name {
        check_free(services, name)?;
    }
    let lifetime = Duration::from_secs(lifetime_s);
    let token = services.node.membership().invite(lifetime, grant)?;
    let expires = i64::try_from(token.expires_unix_s).unwrap_or(i64::MAX);
    let expires = Timestamp::from_second(expires).unwrap_or(Timestamp::MAX);
    Ok(Invitation {
        token: token.encode(),
        expires,
    })
}

/// Prevents a joining node from choosing a name to which the settings in force give rights.
pub(in crate::daemon::service) fn reserve_names(services: &Arc<Services>) {
    let weak = Arc::downgrade(services);
    services
        .node
        .membership()
        .reserve_names(Box::new(move |name| {
            let services = weak.upgrade();
            services.is_some_and(|services| is_reserved(&services, name.as_str()))
        }));
}

/// Returns whether a group has the name, or the settings give rights to a node of this name.
fn is_reserved(services: &Services, name: &str) -> bool {
    let in_force = services.settings.in_force.load();
    let is_group = |group: &Group| group.name == name;
    let mut groups = in_force.config.groups.iter();
    groups.any(is_group) || former_names::given_names(services).contains(name)
}

/// Refuses a name that a member has. As readers of a share, two members of one name could not
/// be distinguished.
fn check_free(services: &Services, name: &NodeName) -> Result<(), Failure> {
    let trust = services.node.membership().view();
    if !trust
        .ledger()
        .is_some_and(|it| it.members().any(|member| member.name == *name))
    {
        return Ok(());
    }
    let message = format!("a member is called {name} already");
    let remedy = "choose another name; or p2pfs expel that one first";
    Err(Failure::new(FailureKind::Invalid, message).with_remedy(remedy))
}

pub(super) async fn join(services: &Services, token: &str) -> Result<Joined, Failure> {
    let token = InviteToken::parse(token)
        .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
    if token.issuer == services.node.id() {
        let remedy = "join with it on the machine that is to come in";
        let own = Failure::new(FailureKind::Invalid, "this node itself made that token");
        return Err(own.with_remedy(remedy));
    }
    let given = former_names::given_names(services);
    services
        .node
        .membership()
        .join_with_names(&token, &given)
        .await?;
    run::forget_waiting_token(services);
    Ok(Joined {
        epoch: services
            .node
            .membership()
            .view()
            .epochs()
            .sealing()
            .id()
            .to_string(),
        issuer: token.issuer.to_string(),
    })
}

/// Returns the members whose membership depends on the statements of one member alone.
pub(super) fn admitted(services: &Services, wanted: &str) -> Result<Admitted, Failure> {
    Ok(Admitted {
        admitted: admitted_by(services, find_expelled(services, wanted, true)?)?,
    })
}

/// Expels a node. If `with` is set, also expels the members whose membership depends on the
/// statements of this node alone.
pub(super) async fn expel(
    services: &Services,
    wanted: &str,
    with: bool,
) -> Result<Expelled, Failure> {
    let node = find_expelled(services, wanted, with)?;
    let admitted = admitted_by(services, node)?;
    let epoch = if with {
        services.node.membership().expel_with_admitted(node).await?
    } else {
        services.node.membership().expel(node).await?
    };
    Ok(Expelled {
        epoch: epoch.to_string(),
        admitted,
        invitations: services.node.membership().waiting_invitations() as u64,
    })
}

fn admitted_by(services: &Services, node: NodeId) -> Result<Vec<TrustedNode>, Failure> {
    Ok(trusted(
        services,
        services.node.membership().admitted_by_it_alone(node)?,
    ))
}

/// Finds another node that may be expelled: a member, or a node that left by itself. If `with` is
/// set, any former member may be expelled, in order to expel the members that it admitted.
fn find_expelled(services: &Services, wanted: &str, with: bool) -> Result<NodeId, Failure> {
    let node = match find_member(services, wanted) {
        // A name that several members have must not fall through to a former member.
        Err(failure) if failure.kind != FailureKind::NotFound => return Err(failure),
        Err(failure) => {
            let former = find_former(services, wanted);
            let trust = services.node.membership().view();
            let has_resigned = |node: &_| {
                trust
                    .ledger()
                    .is_some_and(|it| it.departed().has_resigned(node))
            };
            let may_be = former.filter(|it| with || has_resigned(it));
            may_be.ok_or(failure)?
        }
        Ok(node) => node,
    };
    if node == services.node.id() {
        let message = "that is this node itself";
        return Err(Failure::new(FailureKind::Invalid, message).with_remedy("p2pfs leave"));
    }
    Ok(node)
}

/// Finds the former member with this name or start of a key. Returns `None` if there is none, or if
/// there are several.
fn find_former(services: &Services, wanted: &str) -> Option<NodeId> {
    let trust = services.node.membership().view();
    let ledger = trust.ledger()?;
    let names = in_history(&trust).into_iter();
    let called = names.filter(|(node, name)| {
        let is_it = name == wanted || services.node.peers().is_called(node, wanted);
        is_it && ledger.is_expelled(node)
    });
    match called.collect::<Vec<_>>()[..] {
        [(node, _)] => Some(node),
        _ => None,
    }
}

/// Sets or removes the owner of a path.
pub(super) async fn own(
    services: &Arc<Services>,
    path: &Named,
    peer: Option<String>,
    confirmed: bool,
) -> Result<Nothing, Failure> {
    if path.as_bytes().is_empty() {
        // Most likely an unset variable of a script.
        let why = "no path was given".to_owned();
        let remedy = "name a path; / stands for the whole folder";
        return Err(Failure::new(FailureKind::Invalid, why).with_remedy(remedy));
    }
    let path = shared_path(path)?;
    let owner = peer.map(|peer| find_member(services, &peer)).transpose()?;
    if let Some(owner) = owner.filter(|_| !confirmed && trust(services).admin) {
        let path = path.clone();
        super::blocking(services, move |services| {
            check_new_owner(services, &path, &owner)
        })
        .await?;
    }
    services.node.membership().own(&path, owner).await?;
    Ok(Nothing {})
}

/// Requires a confirmation for a new owner that hides files of other nodes, and for an unknown
/// path. Either is most likely a mistake, and no other message shows its effect.
fn check_new_owner(services: &Services, path: &SharedPath, owner: &NodeId) -> Result<(), Failure> {
    let unconfirmed = |why: String| Failure::new(FailureKind::Unconfirmed, why);
    let shown = escape_or_top(path);
    if !services.node.names().is_known(path) {
        let why = format!("{shown}: no node shares such a name");
        let remedy = "name a path that p2pfs ls shows; or --yes to own it before it is there";
        return Err(unconfirmed(why).with_remedy(remedy));
    }
    let hidden = services.node.names().hidden_by_owner(path, owner);
    if hidden.is_empty() {
        return Ok(());
    }
    let files = write_count(hidden.values().sum(), "file", "files");
    let authors = hidden
        .keys()
        .map(|node| services.node.peers().name_of(node));
    let authors = list_of_some(authors.collect());
    let owner = services.node.peers().name_of(owner);
    let why = format!("{shown}: with {owner} as its owner, that hides {files} of {authors}");
    Err(unconfirmed(why).with_remedy("--yes to go on"))
}

/// Returns the owned paths.
fn owners(services: &Services, ledger: &Ledger) -> Vec<OwnedPath> {
    let owned = |(path, node): (&[u8], NodeId)| OwnedPath {
        path: Named::new(path.to_vec()),
        name: services.node.peers().name_of(&node),
        node: node.to_string(),
    };
    ledger.owners().map(owned).collect()
}

pub(super) async fn rotate(services: &Services) -> Result<Rotated, Failure> {
    let epoch = services.node.membership().rotate().await?;
    Ok(Rotated {
        epoch: epoch.to_string(),
    })
}

pub(super) async fn forget(services: &Services, wanted: &str) -> Result<Nothing, Failure> {
    // A node that has long been gone may no longer be a member, but its entries are still here.
    let node = match services.node.names().author_called(wanted) {
        Some(node) => node,
        None => match network::find_node(services, wanted).await {
            Ok(found) => found.status.member.node,
            // The node may be named as it was admitted, as `p2pfs trust` shows it.
            Err(failure) => {
                let member = find_member(services, wanted).ok();
                let known = member.or_else(|| find_former(services, wanted));
                known.ok_or(failure)?
            }
        },
    };
    match services.node.peers().forget(node).await {
        Err(NodeError::NotForgotten(why)) => Err(not_forgotten(wanted, why)),
        forgotten => forgotten.map(|()| Nothing {}).map_err(Failure::from),
    }
}

/// Says why the entries of a node stay. A node that was just killed counts as alive for some
/// seconds, so the remedy says when to repeat the command.
fn not_forgotten(wanted: &str, why: NotForgotten) -> Failure {
    const AGAIN: &str = "if it will not return, repeat this once p2pfs peers shows it as down";
    let (message, remedy) = match why {
        NotForgotten::Own => (
            "that is this node itself".to_owned(),
            "p2pfs share remove stops sharing a folder",
        ),
        NotForgotten::Live(MemberState::Suspect) => (
            format!("{wanted} does not answer, and is not known to be gone yet"),
            AGAIN,
        ),
        NotForgotten::Live(MemberState::Away) => (
            format!("{wanted} has stopped, and its entries stay for a while in case it returns"),
            AGAIN,
        ),
        NotForgotten::Live(_) => (format!("{wanted} still counts as alive"), AGAIN),
        NotForgotten::Unlisted => (
            format!("this node knows no entry of {wanted}"),
            "p2pfs ls -l shows the holders of each entry",
        ),
    };
    Failure::new(FailureKind::Invalid, message).with_remedy(remedy)
}

/// Returns the members and their history.
pub(super) fn trust(services: &Services) -> Trust {
    let known = services.node.membership().view();
    let mut trust = Trust {
        epoch: known.epochs().newest().id().to_string(),
        certificates: false,
        admin: known.is_admin(&services.node.id()),
        members: Vec::new(),
        owners: Vec::new(),
        history: Vec::new(),
        gone: Vec::new(),
    };
    let Some(ledger) = known.ledger() else {
        return trust;
    };
    let name = |node: &NodeId| services.node.peers().name_of(node);
    let history = ledger.history();
    // A statement that only names an existing secret is not a rotation. A statement that only
    // confirms that a node left is left out, because the history has that node's own statement.
    let shown = history.iter().filter(|(it, _)| {
        !matches!(it.statement.claim, Claim::Rotate { number: 0, .. }) && !ledger.confirms(it)
    });
    trust.certificates = true;
    trust.members = trusted(services, ledger.members().cloned().collect());
    trust.owners = owners(services, ledger);
    trust.history = shown
        .map(|(signed, counts)| step(signed, *counts, &name))
        .collect();
    let departed = ledger.departed().by_time().into_iter();
    trust.gone = departed
        .map(|(node, word)| gone(node, word, &name))
        .collect();
    trust
}

/// Converts members for the reply, the first to join first.
fn trusted(services: &Services, mut certificates: Vec<Certificate>) -> Vec<TrustedNode> {
    certificates.sort_by_key(|it| (it.since_s, it.node));
    let name = |node: &NodeId| services.node.peers().name_of(node);
    let member = |it: &Certificate| TrustedNode {
        name: name(&it.node),
        node: it.node.to_string(),
        admin: it.admin,
        since: time_of(it.since_s),
        until: it.until_s.map(time_of),
        by: name(&it.by),
        by_node: it.by.to_string(),
    };
    certificates.iter().map(member).collect()
}

/// Finds a member by its name or the start of its key.
fn find_member(services: &Services, wanted: &str) -> Result<NodeId, Failure> {
    // The error contains the reason and the remedy.
    let trust = services.node.membership().view();
    let ledger = trust.require_ledger();
    let ledger = ledger.map_err(|error| failed(error.to_string()))?;
    let mut called: Vec<_> = ledger.members().collect();
    called.retain(|it| it.name.as_str() == wanted);
    if called.is_empty() {
        // The names in certificates come first, because any node can give itself the name of
        // another node's certificate.
        called.extend(ledger.members());
        called.retain(|it| services.node.peers().is_called(&it.node, wanted));
    }
    match called[..] {
        [one] => Ok(one.node),
        [] => Err(Failure::new(
            FailureKind::NotFound,
            format!("no member is called {wanted:?}"),
        )
        .with_remedy("p2pfs trust shows who is in")),
        _ => {
            let message = format!("several members are called {wanted:?}");
            Err(Failure::new(FailureKind::Invalid, message)
                .with_remedy("p2pfs trust shows each of them with the start of its key"))
        }
    }
}

/// Leaves the cluster: states it, gives the statement to the other nodes, removes the membership,
/// and ends the daemon. In this order, a crash or a failed disk leaves a state in which the call
/// can be repeated.
pub(super) async fn leave_cluster(services: &Arc<Services>) -> Result<Left, Failure> {
    let resignation = services.node.membership().resign().await?;
    let unreceived = !matches!(resignation, Resignation::Received);
    if let Resignation::NotStated(error) = resignation {
        tracing::warn!("{}", StopProblem::NotResigned(error.into()));
    }
    forget_cluster(services).await?;
    let stopping = |_| failed("the daemon is stopping already");
    services.lifecycle.leave.send(()).await.map_err(stopping)?;
    Ok(Left { unreceived })
}

/// Removes the membership, so that a node that left for good does not rejoin at the next start.
/// A node with a configured secret file rejoins all the same.
async fn forget_cluster(services: &Services) -> Result<(), Failure> {
    let given = former_names::given_names(services);
    match services.node.membership().forget(given).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            tracing::warn!("the secret file brings this node back at its next start");
            Ok(())
        }
        Err(error) => {
            let why = format!("the other nodes know that this node left, but {error}");
            Err(failed(why).with_remedy("p2pfs leave again"))
        }
    }
}

fn step(signed: &SignedStatement, counts: bool, name: &dyn Fn(&NodeId) -> String) -> TrustStep {
    let by = signed.statement.by;
    let what = match &signed.statement.claim {
        Claim::Found { .. } => "founded",
        Claim::Admit { .. } => "admitted",
        Claim::Expel { node, .. } if *node == by => "left",
        Claim::Expel { .. } => "expelled",
        Claim::Rotate { .. } => "rotated",
        Claim::Own { node: Some(_), .. } => "owns",
        Claim::Own { .. } => "disowned",
    };
    let path = match &signed.statement.claim {
        Claim::Own { path, .. } => Some(Named::new(path.clone())),
        _ => None,
    };
    let subject = signed.subject();
    TrustStep {
        time: time_of(signed.statement.at_s),
        what: what.to_owned(),
        name: subject.as_ref().map(name),
        node: subject.map(|node| node.to_string()),
        path,
        by: name(&by),
        by_node: by.to_string(),
        counts,
    }
}

/// Converts a former member. `word` is the statement that ended its membership. If `word` names
/// another node, the former member was removed together with that node, which had admitted it.
fn gone(node: NodeId, word: &SignedStatement, name: &dyn Fn(&NodeId) -> String) -> GoneNode {
    let by = word.statement.by;
    let with = word.subject().filter(|subject| *subject != node);
    let left = by == node;
    GoneNode {
        name: name(&node),
        node: node.to_string(),
        time: time_of(word.statement.at_s),
        what: if left { "left" } else { "expelled" }.to_owned(),
        by: name(&by),
        by_node: by.to_string(),
        with: with.as_ref().map(name),
        with_node: with.map(|node| node.to_string()),
    }
}

pub(super) fn time_of(unix_s: u64) -> Timestamp {
    let seconds = i64::try_from(unix_s).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// Returns a path as text, with a slash for the top of the folder.
pub(super) fn escape_or_top(path: &SharedPath) -> String {
    if path.is_root() {
        "/".to_owned()
    } else {
        escape(path.as_bytes())
    }
}

/// Returns the first names of a list, and the number of the others.
fn list_of_some(mut names: Vec<String>) -> String {
    names.sort();
    let others = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let named = names.join(", ");
    if others == 0 {
        named
    } else {
        format!("{named} and {others} others")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forget_of_a_node_that_counts_as_live_says_when_to_repeat_it() {
        use MemberState::{Alive, Away, Suspect};
        for state in [Alive, Suspect, Away] {
            let failure = not_forgotten("gone", NotForgotten::Live(state));
            let said = format!("{failure:?}");
            assert!(
                said.contains("repeat this once p2pfs peers shows"),
                "{said}"
            );
            assert!(!said.contains("listed nothing"), "{said}");
        }
        let unknown = not_forgotten("gone", NotForgotten::Unlisted);
        assert!(unknown.message.contains("no entry of gone"), "{unknown:?}");
    }

    #[test]
    fn long_lists_name_the_first_and_count_the_others() {
        let names = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
        assert_eq!(list_of_some(names(2)), "n0, n1");
        assert_eq!(list_of_some(names(7)), "n0, n1, n2, n3, n4 and 2 others");
    }
}
