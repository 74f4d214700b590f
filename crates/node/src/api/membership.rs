//! The membership of this node in its cluster, and the statements about other members: invitations,
//! expulsions, owners of paths and secrets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::NodeError;
use crate::commands::CommandSender;
use crate::persist::unix_now_s;
use crate::published::Published;
use crate::run::LoopCommand;
use p2pfs_content::shares::ShareSet;
use p2pfs_proto::trust::{
    Certificate, Grant, InviteToken, Invites, IsReserved, Keyring, Known, NodeKey, TOKEN_SEEDS_MAX,
    TrustError,
};
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_transfer::net::NetError;
use p2pfs_transfer::net::peer::{Joining, PeerNet};
use p2pfs_types::id::{EpochId, NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Minimum time that a leaving node with living peers waits after its resignation, so that the
/// resignation spreads in some rounds of gossip.
const RESIGNATION_HEARD: Duration = Duration::from_millis(500);

/// Maximum time that a leaving node tries to give its resignation to other nodes over connections.
const RESIGNATION_LIMIT: Duration = Duration::from_secs(3);

/// Pause before a leaving node gives its resignation to the same node again.
const RESIGNATION_RETRY: Duration = Duration::from_millis(200);

/// Maximum number of nodes to which a leaving node gives its resignation over connections. Each of
/// them passes it on.
const RESIGNATION_RECEIVERS_MAX: usize = 8;

/// Maximum time that a join waits for the issuer's statements about the cluster. If they do not
/// arrive in this time, the join succeeds without them.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

/// How far the statement that this node leaves for good has come. Other nodes that have not received
/// it take this node for a member until one of them expels it.
#[derive(Debug)]
pub enum Resignation {
    /// Another node has received the statement, or no other node needs it.
    Received,
    /// The statement is made, and no other node has received it.
    Unreceived,
    /// This node cannot make the statement, for the reason inside.
    NotStated(TrustError),
}

/// The keys of a node and its membership. [`Node::membership`](crate::Node::membership) returns it.
pub struct NodeMembership {
    pub(crate) name: NodeName,
    pub(crate) secret_file: Option<PathBuf>,
    pub(crate) key: Arc<NodeKey>,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) invites: Arc<Invites>,
    pub(crate) shares: ShareSet,
    pub(crate) net: PeerNet,
    pub(crate) published: Published,
    pub(crate) commands: CommandSender,
}

impl NodeMembership {
    /// Returns the secrets and the ledger of the cluster, as far as this node knows them.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Makes a token for one new node, valid for `lifetime`. The token can be used once, and only
    /// while this node runs and is in this cluster.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if too many tokens are outstanding, if this node may not admit nodes or
    /// is too far from the founder to do so, or if the cluster has a secret file.
    pub fn invite(&self, lifetime: Duration, grant: Grant) -> Result<InviteToken, NodeError> {
        // In a cluster with a secret file this fails: a token does not contain the file, and no
        // node can certify the new node.
        let ledger = self.keyring.require_ledger()?;
        ledger.check_admits(&self.key.node_id(), self.keyring.now_s())?;
        let mut seeds = vec![**self.published.own_address.load()];
        seeds.extend(self.published.addresses.load().values().copied());
        seeds.truncate(TOKEN_SEEDS_MAX);
        let (me, known, now_s) = (self.key.node_id(), Known::of(Some(&ledger)), unix_now_s());
        let issued = self.invites.issue(me, seeds, lifetime, grant, known, now_s);
        Ok(issued?)
    }

    /// Sets which names a joining node may not use, because settings give rights by these names.
    /// Only the first call has an effect.
    pub fn reserve_names(&self, is_reserved: IsReserved) {
        self.invites.reserve(is_reserved);
    }

    /// Returns how many invitations of this node into its current cluster are unused.
    pub fn waiting_invitations(&self) -> usize {
        let cluster = self.keyring.ledger().map(|it| it.cluster());
        self.invites.waiting(cluster, unix_now_s())
    }

    /// Joins the cluster of the token. If this is another cluster than before, names among the
    /// readers of the current shares match no member until they are confirmed, because they were
    /// given for members of the previous cluster.
    ///
    /// # Errors
    /// Those of [`Self::join_with_names`].
    pub async fn join(&self, token: &InviteToken) -> Result<(), NodeError> {
        let shares = self.shares.list().into_iter();
        let readers = shares.flat_map(|share| share.spec.readers.unwrap_or_default());
        let names = readers.filter(|reader| reader.parse::<NodeId>().is_err());
        self.join_with_names(token, &names.collect()).await
    }

    /// Joins the cluster of the token as [`Self::join`] does. If the token is for another cluster,
    /// the names `given` by the settings match no member until they are confirmed.
    ///
    /// # Errors
    /// [`NodeError::SecretFromFile`]; [`NodeError::Net`] if the issuer of the token does not answer
    /// or refuses; [`NodeError::Trust`] if its answer is invalid or cannot be stored;
    /// [`NodeError::Stopping`], with the token unused. Then the node stays in its cluster.
    pub async fn join_with_names(
        &self,
        token: &InviteToken,
        given: &BTreeSet<String>,
    ) -> Result<(), NodeError> {
        if let Some(file) = &self.secret_file {
            return Err(NodeError::SecretFromFile { file: file.clone() });
        }
        // Fails if the node is stopping, so that a stopping node does not use up the token.
        self.commands.send(LoopCommand::MembershipChanged).await?;
        let Joining { secret, chain } = self.net.enrol(token, &self.name).await?;
        self.keyring
            .join(&self.key.node_id(), secret, &chain, given)?;
        let _later = tokio::time::timeout(RECORD_LIMIT, self.fetch_record(token)).await;
        let reached = token.seeds.iter().map(|seed| (token.issuer, *seed));
        let reached = LoopCommand::LetIn(reached.collect());
        for news in [LoopCommand::MembershipChanged, reached] {
            // If the node is stopping, the command is not needed: the new membership is on the
            // disk.
            let _stopping = self.commands.send(news).await;
        }
        Ok(())
    }

    /// Requests the statements about the cluster from the issuer, because the join brought only a
    /// part of them. With them, the next statements of this node continue its earlier ones,
    /// including those of an earlier membership. Otherwise the end of one membership would
    /// invalidate the statements made in it, and remove the nodes that they admitted.
    async fn fetch_record(&self, token: &InviteToken) {
        for seed in &token.seeds {
            let question = self.keyring.exchange().question(false).into();
            let asked = Request::Trust { question };
            let answer = self
                .net
                .request(token.issuer, *seed, Lane::Bulk, asked)
                .await;
            if let Ok(Response::Trust { answer }) = answer {
                let (_lacks_some, fault) = self.keyring.exchange().receive_answer(&answer);
                if fault.is_none() {
                    return;
                }
            }
        }
    }

    /// Expels a node from the cluster and gives the other members a fresh secret, as
    /// [`Self::rotate`] does. Returns the epoch of the secret.
    ///
    /// # Errors
    /// [`NodeError::Trust`]; then nothing has changed. The exception is
    /// [`TrustError::NoFreshSecret`](p2pfs_proto::trust::TrustError::NoFreshSecret): the node is
    /// expelled without a fresh secret.
    pub async fn expel(&self, node: NodeId) -> Result<EpochId, NodeError> {
        let expelled = (self.keyring).state_and_rotate(&self.key, |signer| signer.expel(node));
        self.pass_on(expelled).await
    }

    /// Expels a node together with all nodes that are members only because of its admissions
    /// ([`Self::admitted_by_it_alone`]), as [`Self::expel`] does.
    ///
    /// # Errors
    /// As [`Self::expel`]. It is not an error if the node is no longer a member.
    pub async fn expel_with_admitted(&self, node: NodeId) -> Result<EpochId, NodeError> {
        let expelled =
            (self.keyring).state_and_rotate(&self.key, |signer| signer.expel_with_admitted(node));
        self.pass_on(expelled).await
    }

    /// Tells the event loop that the membership may have changed, and returns the outcome of a
    /// statement. It is not an error if the node is stopping: the statement is on the disk, and the
    /// other nodes request it after the next start.
    async fn pass_on<T>(&self, stated: Result<T, TrustError>) -> Result<T, NodeError> {
        let _stopping = self.commands.send(LoopCommand::MembershipChanged).await;
        Ok(stated?)
    }

    /// Returns the members that would not be members without the admissions of `node`: nodes that
    /// only `node` admitted, nodes that only those admitted, and so on.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if this node may not expel `node`, or if `node` was never a member.
    pub fn admitted_by_it_alone(&self, node: NodeId) -> Result<Vec<Certificate>, NodeError> {
        let ledger = self.keyring.require_ledger()?;
        Ok(ledger.admitted_by_it_alone(&self.key, node, self.keyring.now_s())?)
    }

    /// Makes a member the owner of a path, or removes the owner. At and below an owned path, except
    /// at deeper owned paths, nodes list only the owner's versions.
    ///
    /// # Errors
    /// [`NodeError::Trust`], for example if this node may not set owners, if the owner is not a
    /// member, or if the path is longer than
    /// [`OWNED_PATH_MAX_BYTES`](p2pfs_proto::trust::OWNED_PATH_MAX_BYTES).
    pub async fn own(&self, path: &SharedPath, owner: Option<NodeId>) -> Result<(), NodeError> {
        let path = path.as_bytes().to_vec();
        let owned = self
            .keyring
            .state(&self.key, |signer| signer.own(path, owner));
        self.pass_on(owned).await
    }

    /// Gives the members a fresh secret. The old secret expires soon afterwards.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if this node may not rotate the secret, or cannot store it.
    pub async fn rotate(&self) -> Result<EpochId, NodeError> {
        let rotated = self.keyring.rotate(&self.key);
        self.pass_on(rotated).await
    }

    /// States in the ledger that this node leaves for good, and gives the statement to other nodes.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if the statement cannot be stored. Then this node is still a member.
    pub async fn resign(&self) -> Result<Resignation, NodeError> {
        let me = self.key.node_id();
        let receivers = self.published.addresses.load_full();
        let has_others = self
            .keyring
            .ledger()
            .is_some_and(|ledger| ledger.members().nth(1).is_some());
        match self.keyring.state(&self.key, |it| it.expel(me)) {
            Ok(()) => {}
            Err(error @ TrustError::File { .. }) => return Err(error.into()),
            Err(error) => {
                let is_member = self.keyring.has_ledger() && self.keyring.is_member(&me);
                return Ok(if is_member {
                    Resignation::NotStated(error)
                } else {
                    Resignation::Received
                });
            }
        }
        let _stopping = self.commands.send(LoopCommand::MembershipChanged).await;
        if !has_others {
            return Ok(Resignation::Received);
        }
        if receivers.is_empty() {
            return Ok(Resignation::Unreceived);
        }
        let receivers = receivers.iter().take(RESIGNATION_RECEIVERS_MAX);
        let receivers = receivers.map(|(node, address)| (*node, *address)).collect();
        let spread = tokio::time::sleep(RESIGNATION_HEARD);
        let (is_received, ()) = tokio::join!(self.deliver_resignation(receivers), spread);
        Ok(if is_received {
            Resignation::Received
        } else {
            Resignation::Unreceived
        })
    }

    /// Gives the statements that this node knows to other nodes over connections, until one of them
    /// has received them or [`RESIGNATION_LIMIT`] is over. Returns whether one has. Gossip has no
    /// acknowledgement.
    async fn deliver_resignation(&self, receivers: Vec<(NodeId, SocketAddr)>) -> bool {
        let mut attempts = JoinSet::new();
        for (node, address) in receivers {
            let (net, keyring) = (self.net.clone(), self.keyring.clone());
            attempts.spawn(async move {
                while !give_statements(&net, &keyring, node, address).await {
                    tokio::time::sleep(RESIGNATION_RETRY).await;
                }
            });
        }
        let first = tokio::time::timeout(RESIGNATION_LIMIT, attempts.join_next()).await;
        matches!(first, Ok(Some(Ok(()))))
    }
}

/// Gives a node all statements that this node knows. Returns whether it has received them.
async fn give_statements(
    net: &PeerNet,
    keyring: &Keyring,
    node: NodeId,
    address: SocketAddr,
) -> bool {
    let question = keyring.exchange().question(true).into();
    let asked = Request::Trust { question };
    match net.request(node, address, Lane::Urgent, asked).await {
        Ok(Response::Trust { answer }) => {
            keyring.exchange().receive_answer(&answer) == (false, None)
        }
        // The node no longer takes this one for a member: it received the statement by gossip.
        Ok(Response::NotHere) | Err(NetError::PutOut { .. }) => true,
        // This includes a refusal without proof that this node is out. A node that does not know
        // this one yet also refuses like that.
        _ => false,
    }
}
