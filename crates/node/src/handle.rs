//! A running node, as the daemon holds it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::NodeError;
use super::conditions::Condition;
use super::content::NodeContent;
use super::file_sender::FileSender;
use super::foreign::ForeignPeers;
use super::inbox::InboxHandle;
use super::names::Names;
use super::persist::unix_now_s;
use super::published::{MemberReport, Outdated};
use super::run::{LoopCommand, NodeHandles};
use super::state_dir::StateDir;
use p2pfs_cache::Cache;
use p2pfs_catalogue::View;
use p2pfs_membership::Leave;
use p2pfs_proto::trust::{
    Certificate, Grant, InviteToken, Invites, IsReserved, Keyring, NodeKey, TOKEN_SEEDS_MAX,
};
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_share::ShareSet;
use p2pfs_transfer::net::lan::Lan;
use p2pfs_transfer::net::peer::{Joining, Probed};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::Whereabouts;
use p2pfs_types::id::{EpochId, NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// Maximum time to leave. The farewell is sent three times within 120 ms, and the mDNS goodbye
/// once.
const FAREWELL_LIMIT: Duration = Duration::from_secs(3);

/// How long a resignation spreads, in some rounds of gossip, before the farewell.
const RESIGNATION_HEARD: Duration = Duration::from_millis(500);

/// How long a join waits for the statements on record. Other nodes send them soon after anyway.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

/// The result when another node dialled this one back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Clock of the other node at the end of its attempt, in Unix milliseconds; `None` if it made
    /// no attempt.
    pub unix_ms: Option<u64>,
    /// The reason why the attempt failed.
    pub trouble: Option<String>,
}

/// The channels to the event loop and to the tasks beside it.
pub(super) struct LoopControl {
    pub(super) commands: mpsc::Sender<LoopCommand>,
    pub(super) stopping: watch::Receiver<bool>,
    pub(super) courier: FileSender,
    /// The folders for files of others.
    pub(super) inboxes: Vec<InboxHandle>,
    /// The mDNS announcement of this node, withdrawn when the node stops.
    pub(super) lan: Mutex<Option<Lan>>,
}

/// The name and the keys of a node, and its proof of membership.
pub(super) struct NodeIdentity {
    pub(super) name: NodeName,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) key: Arc<NodeKey>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) invites: Arc<Invites>,
}

/// A running node. Dropping it stops it without a farewell.
pub struct Node {
    pub(super) identity: NodeIdentity,
    pub(super) cache: Cache,
    pub(super) shares: ShareSet,
    pub(super) content: Arc<NodeContent>,
    pub(super) handles: NodeHandles,
    pub(super) control: LoopControl,
    /// Notified of each change of the pins.
    pub(super) pins: watch::Sender<()>,
    pub(super) changes: Option<mpsc::Receiver<Outdated>>,
    pub(super) state: StateDir,
}

impl Node {
    /// Returns the public half of the node's key.
    pub fn id(&self) -> NodeId {
        self.identity.key.node_id()
    }

    /// Returns the name of the node.
    pub fn name(&self) -> &NodeName {
        &self.identity.name
    }

    /// Returns the address at which other nodes reach this one. It changes with the machine's
    /// address.
    pub fn address(&self) -> SocketAddr {
        **self.handles.published.own_address.load()
    }

    /// Returns the secrets and the ledger that the node knows.
    pub fn keyring(&self) -> &Keyring {
        &self.identity.keyring
    }

    /// Describes the problem if the state directory was emptied, moved or replaced. In that case
    /// the next restart loses the stored state.
    pub(super) fn trouble_with_state(&self) -> Option<String> {
        let place = format!("the state directory {}", self.state.path().display());
        let moved = "was emptied, moved or replaced while p2pfs runs, and with it this node's key";
        trouble_with_place(self.state.whereabouts(), &place, moved)
    }

    /// Describes the problem if the cache directory was emptied, moved or replaced. In that case
    /// the next restart loses the cached and pinned contents.
    pub(super) fn trouble_with_cache_dir(&self) -> Option<String> {
        let place = format!("the cache directory {}", self.cache.dir().display());
        let moved = "was emptied, moved or replaced while p2pfs runs";
        trouble_with_place(self.cache.whereabouts(), &place, moved)
    }

    /// Returns why the cache stores nothing, if its disk refused the last write.
    pub fn trouble_with_caching(&self) -> Option<String> {
        let events = &self.handles.events;
        let found = events.standing_of(Condition::CacheNotStored).pop()?;
        Some(found.finding.found)
    }

    /// Returns the current namespace.
    pub(super) fn view(&self) -> Arc<View> {
        self.handles.published.view.load_full()
    }

    /// Returns the name of the node or peer that sent a file, as stated by the node that received
    /// it. Returns `None` if the file was not sent.
    pub fn sent_by(&self, path: &SharedPath, hash: &ContentHash) -> Option<String> {
        let sender = self.view().sent_by(path, hash)?;
        let names = Names::new(
            self.handles.published.view.clone(),
            self.identity.keyring.clone(),
        );
        Some(names.of_sender(&sender))
    }

    /// Returns the content for the filesystem.
    pub fn content(&self) -> Arc<NodeContent> {
        self.content.clone()
    }

    /// Returns the shared folders.
    pub(super) fn shares(&self) -> &ShareSet {
        &self.shares
    }

    /// Returns the peers of other protocols, if the node speaks to any.
    pub fn foreign(&self) -> Option<&Arc<dyn ForeignPeers>> {
        self.content.foreign.as_ref()
    }

    /// Returns the sender of files and talk.
    pub(super) fn courier(&self) -> &FileSender {
        &self.control.courier
    }

    /// Sets the content of `.p2pfs/status.json`.
    pub fn publish_status(&self, json: Vec<u8>) {
        self.handles.published.status.store(Arc::new(json));
    }

    /// Takes the receiver of namespace changes, for the owner of the mount. Returns `None` after
    /// the first call.
    pub fn take_changes(&mut self) -> Option<mpsc::Receiver<Outdated>> {
        self.changes.take()
    }

    /// Returns every other known node.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn members(&self) -> Result<Vec<MemberReport>, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.command(LoopCommand::Members(reply)).await?;
        answer.await.map_err(|_| NodeError::Stopping)
    }

    /// Returns the addresses at which members were last reached, including those from before this
    /// start.
    pub fn last_addresses(&self) -> Vec<SocketAddr> {
        self.handles.published.last_addresses.load().to_vec()
    }

    /// Finds out which node answers at an address over TCP.
    pub async fn probe(&self, address: SocketAddr) -> Probed {
        self.handles.net.probe(address).await
    }

    /// Measures how long another node takes to answer a request over an open TCP connection.
    ///
    /// # Errors
    /// [`NodeError::Net`] if it does not answer.
    pub async fn tcp_round_trip(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<Duration, NodeError> {
        self.handles.net.warm(node, address, Lane::Urgent).await?;
        let begun = Instant::now();
        // The cheapest request: the holdings of the empty content.
        let hash = ContentHash::of(&[]);
        let question = Request::Holdings { hash };
        self.handles
            .net
            .request(node, address, Lane::Urgent, question)
            .await?;
        Ok(begun.elapsed())
    }

    /// Asks another node to dial this one, to find out whether it can reach this node.
    ///
    /// # Errors
    /// [`NodeError::Net`] if it does not answer, or does not know the request.
    pub async fn ask_to_dial_back(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<Reached, NodeError> {
        let question = Request::Reach;
        let answer = self
            .handles
            .net
            .request_repeated(node, address, Lane::Urgent, question)
            .await?;
        Ok(match answer {
            Response::Reached { unix_ms, trouble } => Reached {
                unix_ms: Some(unix_ms),
                trouble: (!trouble.is_empty()).then_some(trouble),
            },
            // It is too busy to try.
            _ => Reached::default(),
        })
    }

    /// Adds another address to join through.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn add_seed(&self, address: SocketAddr) -> Result<(), NodeError> {
        self.command(LoopCommand::AddSeed(address)).await
    }

    /// Makes a token for one new node. The token can be used once, and only while this node runs
    /// and is in this cluster.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if too many tokens are outstanding, if this node may not admit nodes or
    /// is too far from the founder to do so, or if the cluster has a secret file.
    pub fn invite(&self, lifetime: Duration, grant: Grant) -> Result<InviteToken, NodeError> {
        // A token contains no secret file, and no node could certify the new one.
        self.identity.keyring.check_admits(&self.id())?;
        let mut seeds = vec![self.address()];
        seeds.extend(self.handles.published.addresses.load().values().copied());
        seeds.truncate(TOKEN_SEEDS_MAX);
        let (me, known, now_s) = (self.id(), self.identity.keyring.known(), unix_now_s());
        let issued = self
            .identity
            .invites
            .issue(me, seeds, lifetime, grant, known, now_s);
        Ok(issued?)
    }

    /// Sets which names a joining node may not use, because settings give rights by these names.
    /// Only the first call has an effect.
    pub fn reserve_names(&self, is_reserved: IsReserved) {
        self.identity.invites.reserve(is_reserved);
    }

    /// Returns how many invitations of this node into its current cluster are unused.
    pub fn waiting_invitations(&self) -> usize {
        self.identity
            .invites
            .waiting(self.identity.keyring.cluster(), unix_now_s())
    }

    /// Joins the cluster of the token. The previous membership of this node is dropped. In another
    /// cluster, the names of readers of the present shares mean no member until they are confirmed.
    ///
    /// # Errors
    /// Those of [`Self::join_with_names`].
    pub async fn join(&self, token: &InviteToken) -> Result<(), NodeError> {
        let shares = self.shared().into_iter();
        let readers = shares.flat_map(|share| share.readers.unwrap_or_default());
        let names = readers.filter(|reader| reader.parse::<NodeId>().is_err());
        self.join_with_names(token, &names.collect()).await
    }

    /// Joins the cluster of the token as [`Self::join`] does. In another cluster, the names `given`
    /// by the settings mean no member until they are confirmed.
    ///
    /// # Errors
    /// [`NodeError::SecretFromFile`], [`NodeError::Trust`] for a bad token, [`NodeError::Net`] if
    /// its issuer does not answer or refuses: the node stays in its cluster.
    /// [`NodeError::Stopping`]: the token was not used.
    pub async fn join_with_names(
        &self,
        token: &InviteToken,
        given: &BTreeSet<String>,
    ) -> Result<(), NodeError> {
        if let Some(file) = &self.identity.secret_file {
            return Err(NodeError::SecretFromFile { file: file.clone() });
        }
        // A stopping node must not use up the token.
        self.command(LoopCommand::MembershipChanged).await?;
        let Joining { secret, chain } = self.handles.net.enrol(token, &self.identity.name).await?;
        self.identity
            .keyring
            .join(&self.id(), secret, &chain, given)?;
        let _later = tokio::time::timeout(RECORD_LIMIT, self.fetch_record(token)).await;
        let reached = token.seeds.iter().map(|seed| (token.issuer, *seed));
        let reached = LoopCommand::LetIn(reached.collect());
        for news in [LoopCommand::MembershipChanged, reached] {
            // The membership is on the disk by now, even if the node is stopping.
            let _stopping = self.command(news).await;
        }
        Ok(())
    }

    /// Requests the statements on record from the issuer; the token brought only a part of them.
    /// The next statements of this node then continue its earlier ones, including those of an
    /// earlier membership. Otherwise the end of one membership would remove the statements made in
    /// it, and the nodes that they admitted.
    async fn fetch_record(&self, token: &InviteToken) {
        for seed in &token.seeds {
            let question = self.identity.keyring.question(false).into();
            let asked = Request::Trust { question };
            let answer = self
                .handles
                .net
                .request(token.issuer, *seed, Lane::Bulk, asked)
                .await;
            if let Ok(Response::Trust { answer }) = answer {
                let (_lacks_some, _fault) = self.identity.keyring.receive_answer(&answer);
                return;
            }
        }
    }

    /// Expels a node from the cluster, then gives the other members a fresh secret as
    /// [`Self::rotate`] does. If the rotation fails, the node is expelled all the same.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if this node may not expel, or the other one is not a member;
    /// [`NodeError::Stopping`].
    pub async fn expel(&self, node: NodeId) -> Result<EpochId, NodeError> {
        self.identity.keyring.expel(&self.identity.key, node)?;
        self.rotate_after_expulsion().await
    }

    /// Expels a node and all nodes that are members by its word alone, then rotates the secret. The
    /// node may have been expelled before.
    ///
    /// # Errors
    /// As [`Self::expel`].
    pub async fn expel_with_admitted(&self, node: NodeId) -> Result<EpochId, NodeError> {
        self.identity
            .keyring
            .expel_with_admitted(&self.identity.key, node)?;
        self.rotate_after_expulsion().await
    }

    async fn rotate_after_expulsion(&self) -> Result<EpochId, NodeError> {
        // The expulsion takes effect even if the new secret cannot be stored.
        self.command(LoopCommand::MembershipChanged).await?;
        self.rotate().await
    }

    /// Returns the nodes that are members by this node's word alone, directly or through nodes that
    /// they admitted.
    ///
    /// # Errors
    /// As [`Self::expel`].
    pub fn admitted_by_it_alone(&self, node: NodeId) -> Result<Vec<Certificate>, NodeError> {
        Ok(self
            .identity
            .keyring
            .admitted_by_it_alone(&self.identity.key, node)?)
    }

    /// Makes a member the owner of a path, or removes the owner. At and below an owned path, every
    /// node lists only the owner's versions.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if this node may not, if the owner is not a member, or if the path is
    /// longer than [`OWNED_PATH_MAX_BYTES`](p2pfs_proto::trust::OWNED_PATH_MAX_BYTES);
    /// [`NodeError::Stopping`].
    pub async fn own(&self, path: &SharedPath, owner: Option<NodeId>) -> Result<(), NodeError> {
        self.identity
            .keyring
            .own(&self.identity.key, path.as_bytes(), owner)?;
        self.command(LoopCommand::MembershipChanged).await
    }

    /// Gives the members a fresh secret. The old one expires soon after.
    ///
    /// # Errors
    /// [`NodeError::Trust`] if this node may not; [`NodeError::Stopping`].
    pub async fn rotate(&self) -> Result<EpochId, NodeError> {
        let epoch = self.identity.keyring.rotate(&self.identity.key)?;
        self.command(LoopCommand::MembershipChanged).await?;
        Ok(epoch)
    }

    /// Forgets the listings of a node that is not here. Returns false if the node is here or
    /// unknown.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn forget(&self, node: NodeId) -> Result<bool, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.command(LoopCommand::Forget(node, reply)).await?;
        answer.await.map_err(|_| NodeError::Stopping)
    }

    /// States in the ledger that this node leaves for good. The others learn of it before the
    /// farewell.
    async fn resign(&self) {
        let me = self.id();
        if let Err(error) = self.identity.keyring.expel(&self.identity.key, me) {
            if self.identity.keyring.has_ledger() && self.identity.keyring.is_member(&me) {
                tracing::warn!(
                    "the others take this node for a member until it is expelled: {error}"
                );
            }
        } else if self.command(LoopCommand::MembershipChanged).await.is_ok() {
            tokio::time::sleep(RESIGNATION_HEARD).await;
        }
    }

    /// Sends the farewell and ends the event loop. Returns when both are done, or 3 s after they
    /// began. A final leave first spreads the resignation for 0.5 s.
    pub async fn stop(&self, leave: Leave) {
        if leave == Leave::Final {
            self.resign().await;
        }
        let mut stopping = self.control.stopping.clone();
        let said = async {
            if self.command(LoopCommand::Leave(leave)).await.is_ok() {
                let _ended = stopping.wait_for(|stopped| *stopped).await;
            }
        };
        let lan = self.control.lan.lock().take();
        let hidden = async {
            if let Some(lan) = lan {
                lan.shutdown().await;
            }
        };
        let _too_slow =
            tokio::time::timeout(FAREWELL_LIMIT, async { tokio::join!(said, hidden) }).await;
    }

    async fn command(&self, command: LoopCommand) -> Result<(), NodeError> {
        self.control
            .commands
            .send(command)
            .await
            .map_err(|_| NodeError::Stopping)
    }
}

fn trouble_with_place(now: Whereabouts, place: &str, moved: &str) -> Option<String> {
    match now {
        Whereabouts::InPlace => None,
        Whereabouts::Lost => Some(format!("{place} {moved}")),
        Whereabouts::Unknown => Some(format!("the disk of {place} does not answer")),
    }
}
