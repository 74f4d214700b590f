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
    Certificate, Grant, InviteToken, Invites, IsReserved, Known, Ledger, LedgerSigner, NodeKey,
    SignedStatement, TOKEN_SEEDS_MAX, TrustCommand, TrustError, TrustView,
};
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_transfer::net::peer::{Joining, PeerNet};
use p2pfs_transfer::net::{LedgerHandle, NetError};
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
    pub(crate) ledger: LedgerHandle,
    pub(crate) invites: Arc<Invites>,
    pub(crate) shares: ShareSet,
    pub(crate) net: PeerNet,
    pub(crate) published: Published,
    pub(crate) commands: CommandSender,
}

impl NodeMembership {
    /// Returns the secrets and the ledger of the cluster, as far as this node knows them now.
    pub fn view(&self) -> Arc<TrustView> {
        self.ledger.view()
    }

    /// Removes the secret and the ledger from the disk, so that the next start founds a new cluster.
    /// Until then this node goes on in memory. The names `given` by the settings match no member
    /// until they are confirmed. Returns false if the secret comes from a configured file.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if a file remains, [`NodeError::Stopping`].
    pub async fn forget(&self, given: BTreeSet<String>) -> Result<bool, NodeError> {
        let forgotten = (self.ledger).run(|reply| TrustCommand::Forget { given, reply });
        Ok(forgotten.await??)
    }

    /// Keeps only those names of an earlier cluster for which `is_former` is true. The others mean
    /// members of this cluster from now on.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if the names cannot be stored, [`NodeError::Stopping`]. Then no name is
    /// confirmed.
    pub async fn retain_former_names(
        &self,
        is_former: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<(), NodeError> {
        let is_former = Box::new(is_former);
        let retained = (self.ledger)
            .run(|reply| TrustCommand::RetainFormerNames { is_former, reply })
            .await;
        Ok(retained??)
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
        let trust = self.view();
        let ledger = trust.require_ledger()?;
        ledger.check_admits(&self.key.node_id(), trust.now_s())?;
        let mut seeds = vec![**self.published.own_address.load()];
        seeds.extend(self.published.addresses.load().values().copied());
        seeds.truncate(TOKEN_SEEDS_MAX);
        let (me, known, now_s) = (self.key.node_id(), Known::of(Some(ledger)), unix_now_s());
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
        let cluster = self.view().ledger().map(Ledger::cluster);
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
        // A stopping node must not use up the token.
        if !self.ledger.is_open() {
            return Err(NodeError::Stopping);
        }
        let Joining { secret, chain } = self.net.enrol(token, &self.name).await?;
        let (chain, given) = (chain.to_vec(), given.clone());
        let joined = self.ledger.run(|reply| TrustCommand::Join {
            secret,
            chain,
            given,
            reply,
        });
        joined.await??;
        let _later = tokio::time::timeout(RECORD_LIMIT, self.fetch_record(token)).await;
        let reached = token.seeds.iter().map(|seed| (token.issuer, *seed));
        // If the node is stopping, the command is not needed: the new membership is on the disk.
        let _stopping = (self.commands)
            .send(LoopCommand::LetIn(reached.collect()))
            .await;
        Ok(())
    }

    /// Requests the statements about the cluster from the issuer, because the join brought only a
    /// part of them. With them, the next statements of this node continue its earlier ones,
    /// including those of an earlier membership. Otherwise the end of one membership would
    /// invalidate the statements made in it, and remove the nodes that they admitted.
    async fn fetch_record(&self, token: &InviteToken) {
        for seed in &token.seeds {
            let question = self.view().question(false).into();
            let asked = Request::Trust { question };
            let answer = self
                .net
                .request(token.issuer, *seed, Lane::Bulk, asked)
                .await;
            if let Ok(Response::Trust { answer }) = answer {
                let answer = answer.to_vec();
                let received = (self.ledger)
                    .run(|reply| TrustCommand::ReceiveAnswer { answer, reply })
                    .await;
                if received == Ok(None) {
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
        self.state_and_rotate(move |signer| signer.expel(node))
            .await
    }

    /// Expels a node together with all nodes that are members only because of its admissions
    /// ([`Self::admitted_by_it_alone`]), as [`Self::expel`] does.
    ///
    /// # Errors
    /// As [`Self::expel`]. It is not an error if the node is no longer a member.
    pub async fn expel_with_admitted(&self, node: NodeId) -> Result<EpochId, NodeError> {
        self.state_and_rotate(move |signer| signer.expel_with_admitted(node))
            .await
    }

    /// Makes statements and gives the members a fresh secret. Returns its epoch.
    async fn state_and_rotate(
        &self,
        claims: impl Fn(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError>
        + Send
        + 'static,
    ) -> Result<EpochId, NodeError> {
        let claims = Box::new(claims);
        let stated = (self.ledger).run(|reply| TrustCommand::StateAndRotate { claims, reply });
        Ok(stated.await??)
    }

    /// Makes statements.
    async fn state(
        &self,
        claims: impl Fn(&mut LedgerSigner<'_>) -> Result<Vec<SignedStatement>, TrustError>
        + Send
        + 'static,
    ) -> Result<(), NodeError> {
        let claims = Box::new(claims);
        let stated = (self.ledger).run(|reply| TrustCommand::State { claims, reply });
        Ok(stated.await??)
    }

    /// Returns the members that would not be members without the admissions of `node`: nodes that
    /// only `node` admitted, nodes that only those admitted, and so on.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if this node may not expel `node`, or if `node` was never a member.
    pub fn admitted_by_it_alone(&self, node: NodeId) -> Result<Vec<Certificate>, NodeError> {
        let trust = self.view();
        let ledger = trust.require_ledger()?;
        Ok(ledger.admitted_by_it_alone(&self.key, node, trust.now_s())?)
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
        self.state(move |signer| signer.own(path.clone(), owner))
            .await
    }

    /// Gives the members a fresh secret. The old secret expires soon afterwards.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if this node may not rotate the secret, or cannot store it.
    pub async fn rotate(&self) -> Result<EpochId, NodeError> {
        self.state_and_rotate(|_| Ok(Vec::new())).await
    }

    /// States in the ledger that this node leaves for good, and gives the statement to other nodes.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if the statement cannot be stored. Then this node is still a member.
    /// [`NodeError::Stopping`].
    pub async fn resign(&self) -> Result<Resignation, NodeError> {
        let me = self.key.node_id();
        let receivers = self.published.addresses.load_full();
        let has_others = self
            .view()
            .ledger()
            .is_some_and(|ledger| ledger.members().nth(1).is_some());
        match self.state(move |signer| signer.expel(me)).await {
            Ok(()) => {}
            Err(NodeError::Trust(error)) if !is_of_disk(&error) => {
                let now = self.view();
                let is_member = now.has_ledger() && now.is_member(&me);
                return Ok(if is_member {
                    Resignation::NotStated(error)
                } else {
                    Resignation::Received
                });
            }
            Err(error) => return Err(error),
        }
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
            let (net, trust) = (self.net.clone(), self.view());
            attempts.spawn(async move {
                while !give_statements(&net, &trust, node, address).await {
                    tokio::time::sleep(RESIGNATION_RETRY).await;
                }
            });
        }
        let first = tokio::time::timeout(RESIGNATION_LIMIT, attempts.join_next()).await;
        matches!(first, Ok(Some(Ok(()))))
    }
}

/// Returns whether the disk prevented a statement.
fn is_of_disk(error: &TrustError) -> bool {
    matches!(error, TrustError::File { .. } | TrustError::StandsStill)
}

/// Gives a node all statements that this node knows. Returns whether it has received them.
async fn give_statements(
    net: &PeerNet,
    trust: &TrustView,
    node: NodeId,
    address: SocketAddr,
) -> bool {
    let question = trust.question(true).into();
    let asked = Request::Trust { question };
    match net.request(node, address, Lane::Urgent, asked).await {
        Ok(Response::Trust { answer }) => trust.is_shared_by(&answer),
        // The node no longer takes this one for a member: it received the statement by gossip.
        Ok(Response::NotHere) | Err(NetError::PutOut { .. }) => true,
        // This includes a refusal without proof that this node is out. A node that does not know
        // this one yet also refuses like that.
        _ => false,
    }
}
