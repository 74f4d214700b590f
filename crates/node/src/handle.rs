//! A running node, as the daemon holds it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use super::NodeError;
use super::content::NodeContent;
use super::courier::Courier;
use super::events::EventLog;
use super::legacy::Legacy;
use super::mesh::Mesh;
use super::names::Names;
use super::offenders::Offenders;
use super::persist::{NOT_STORED, unix_now_s};
use super::published::{MemberReport, Outdated, Published};
use super::run::{Command, NOT_CACHED};
use super::state_dir::StateDir;
use super::traffic::Traffic;
use p2pfs_cache::Cache;
use p2pfs_catalogue::View;
use p2pfs_membership::Leave;
use p2pfs_proto::trust::{
    Certificate, Grant, InviteToken, Invites, IsReserved, Keyring, NodeKey, TOKEN_SEEDS_MAX,
};
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_share::ShareSet;
use p2pfs_transfer::net::lan::Lan;
use p2pfs_transfer::net::peer::{Joining, PeerNet, Probed};
use p2pfs_transfer::{Fetcher, Server};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::Whereabouts;
use p2pfs_types::id::{EpochId, NodeId, NodeName};
use p2pfs_types::path::SharedPath;

/// The longest that leaving may take: the farewell is said three times within 120 ms, and mDNS says
/// goodbye once.
const FAREWELL_LIMIT: Duration = Duration::from_secs(3);

/// How long a resignation is told, in some rounds of gossip, before the farewell.
const RESIGNATION_HEARD: Duration = Duration::from_millis(500);

/// How long a join waits for what is on record; the others tell it soon after.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

/// How another node got back to this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Its clock at the end of its attempt; none where it made none.
    pub unix_ms: Option<u64>,
    /// Why it did not succeed.
    pub trouble: Option<String>,
}

/// What runs beside the loop, and how to talk to it.
pub(super) struct Running {
    pub(super) fetcher: Fetcher,
    pub(super) server: Server,
    pub(super) traffic: Traffic,
    pub(super) events: EventLog,
    pub(super) offenders: Offenders,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) stopping: watch::Receiver<bool>,
    /// The legacy peers, where their plane is on.
    pub(super) legacy: Option<Legacy>,
    pub(super) courier: Courier,
    /// Held so that this node is found; taken back when the node stops.
    pub(super) lan: Mutex<Option<Lan>>,
}

/// A node that runs. Dropping it stops it without a farewell.
pub struct Node {
    pub(super) name: NodeName,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) key: Arc<NodeKey>,
    pub(super) keyring: Arc<Keyring>,
    pub(super) invites: Arc<Invites>,
    pub(super) net: PeerNet,
    pub(super) cache: Cache,
    pub(super) shares: ShareSet,
    pub(super) content: Arc<NodeContent>,
    pub(super) published: Published,
    pub(super) running: Running,
    /// Told of each change of what is pinned.
    pub(super) pins: watch::Sender<()>,
    pub(super) changes: Option<mpsc::Receiver<Outdated>>,
    pub(super) state: StateDir,
}

impl Node {
    /// Its key's public half.
    pub fn id(&self) -> NodeId {
        self.key.node_id()
    }

    /// What it calls itself.
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Where others reach it; another when the machine's address changed.
    pub fn address(&self) -> SocketAddr {
        **self.published.own_address.load()
    }

    /// The secrets it knows.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// What is to be said of its state directory, where that is not what it was any more: what was
    /// stored there is lost with the next restart.
    pub fn trouble_with_state(&self) -> Option<String> {
        let place = format!("the state directory {}", self.state.path().display());
        let moved = "was emptied, moved or replaced while p2pfs runs, and with it this node's key";
        trouble_with_place(self.state.whereabouts(), &place, moved)
    }

    /// The same of its cache directory: what was kept and pinned there.
    pub fn trouble_with_cache_dir(&self) -> Option<String> {
        let place = format!("the cache directory {}", self.cache.dir().display());
        let moved = "was emptied, moved or replaced while p2pfs runs";
        trouble_with_place(self.cache.whereabouts(), &place, moved)
    }

    /// Why the state was not stored, where storing failed last: a full disk, most often.
    pub fn trouble_with_storing(&self) -> Option<String> {
        self.running.events.standing(NOT_STORED)
    }

    /// Why the cache takes nothing in, where its disk refused the last write.
    pub fn trouble_with_caching(&self) -> Option<String> {
        self.running.events.standing(NOT_CACHED)
    }

    /// The namespace as it is now.
    pub(super) fn view(&self) -> Arc<View> {
        self.published.view.load_full()
    }

    /// What the sender of a file is called, by the word of the node that it was sent to; none where
    /// nobody sent it.
    pub fn sent_by(&self, path: &SharedPath, hash: &ContentHash) -> Option<String> {
        let sender = self.view().sent_by(path, hash)?;
        let names = Names::new(self.published.view.clone(), self.keyring.clone());
        Some(names.of_sender(&sender))
    }

    /// What the filesystem reads.
    pub fn content(&self) -> Arc<NodeContent> {
        self.content.clone()
    }

    /// The shared folders.
    pub(super) fn shares(&self) -> &ShareSet {
        &self.shares
    }

    /// The legacy peers, where their plane is on.
    pub fn legacy(&self) -> Option<&Legacy> {
        self.running.legacy.as_ref()
    }

    /// Gives files and talk to others.
    pub(super) fn courier(&self) -> &Courier {
        &self.running.courier
    }

    /// The peers of the mesh, where it is on.
    pub fn mesh(&self) -> Option<&Mesh> {
        self.running.courier.mesh.as_ref()
    }

    /// What `.p2pfs/status.json` shows from now on.
    pub fn publish_status(&self, json: Vec<u8>) {
        self.published.status.store(Arc::new(json));
    }

    /// What changes, for whoever holds the mount; once.
    pub fn take_changes(&mut self) -> Option<mpsc::Receiver<Outdated>> {
        self.changes.take()
    }

    /// Every other node that is known.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn members(&self) -> Result<Vec<MemberReport>, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Members(reply)).await?;
        answer.await.map_err(|_| NodeError::Stopping)
    }

    /// Where members were reached the last time that any was, also before this start.
    pub fn last_addresses(&self) -> Vec<SocketAddr> {
        self.published.last_addresses.load().to_vec()
    }

    /// Looks who answers at an address by TCP.
    pub async fn probe(&self, address: SocketAddr) -> Probed {
        self.net.probe(address).await
    }

    /// The time that another node takes to answer a question over TCP, once a connection stands.
    ///
    /// # Errors
    /// [`NodeError::Net`] where it does not answer.
    pub async fn tcp_round_trip(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<Duration, NodeError> {
        self.net.warm(node, address, Lane::Urgent).await?;
        let begun = Instant::now();
        // the cheapest question: what it has of nothing
        let hash = ContentHash::of(&[]);
        let question = Request::Holdings { hash };
        self.net
            .request(node, address, Lane::Urgent, question)
            .await?;
        Ok(begun.elapsed())
    }

    /// Asks another node to dial this one, to find out whether it can be reached from there.
    ///
    /// # Errors
    /// [`NodeError::Net`] where it does not answer, or does not know the question.
    pub async fn ask_to_dial_back(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<Reached, NodeError> {
        let question = Request::Reach;
        let answer = self
            .net
            .request_surely(node, address, Lane::Urgent, question)
            .await?;
        Ok(match answer {
            Response::Reached { unix_ms, trouble } => Reached {
                unix_ms: Some(unix_ms),
                trouble: (!trouble.is_empty()).then_some(trouble),
            },
            // it has too much to do to try
            _ => Reached::default(),
        })
    }

    /// Another address to join through.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn add_seed(&self, address: SocketAddr) -> Result<(), NodeError> {
        self.command(Command::AddSeed(address)).await
    }

    /// Makes a token for one new node; it serves once, and only while this node runs and is in this
    /// cluster.
    ///
    /// # Errors
    /// [`NodeError::Trust`] where too many tokens are out, this node may admit nobody or is too far
    /// from the founder to, or whoever has a secret file is in.
    pub fn invite(&self, lifetime: Duration, grant: Grant) -> Result<InviteToken, NodeError> {
        // a token brings no secret file, and nobody could certify who comes with it
        self.keyring.check_admits(&self.id())?;
        let mut seeds = vec![self.address()];
        seeds.extend(self.published.addresses.load().values().copied());
        seeds.truncate(TOKEN_SEEDS_MAX);
        let (me, known, now_s) = (self.id(), self.keyring.known(), unix_now_s());
        let issued = self.invites.issue(me, seeds, lifetime, grant, known, now_s);
        Ok(issued?)
    }

    /// Sets which names no joiner may give itself, because settings give rights by them. Only the
    /// first call has an effect.
    pub fn reserve_names(&self, is_reserved: IsReserved) {
        self.invites.reserve(is_reserved);
    }

    /// How many invitations of this node into its present cluster wait to be used.
    pub fn waiting_invitations(&self) -> usize {
        self.invites.waiting(self.keyring.cluster(), unix_now_s())
    }

    /// Joins the cluster that the token invites to; what this node was a member of before is
    /// dropped.
    ///
    /// # Errors
    /// [`NodeError::SecretFromFile`], [`NodeError::Trust`] for a bad token, [`NodeError::Net`]
    /// where its issuer does not answer or refuses: the node stays where it was.
    /// [`NodeError::Stopping`]: the token was not used.
    pub async fn join(&self, token: &InviteToken) -> Result<(), NodeError> {
        if let Some(file) = &self.secret_file {
            return Err(NodeError::SecretFromFile { file: file.clone() });
        }
        // who stops uses no token up
        self.command(Command::MembershipChanged).await?;
        let Joining { secret, chain } = self.net.enrol(token, &self.name).await?;
        self.keyring.join(&self.id(), secret, &chain)?;
        let _later = tokio::time::timeout(RECORD_LIMIT, self.hear_record(token)).await;
        let reached = token.seeds.iter().map(|seed| (token.issuer, *seed));
        let reached = Command::LetIn(reached.collect());
        for news in [Command::MembershipChanged, reached] {
            // it is a member on the disk by now, whoever stops
            let _stopping = self.command(news).await;
        }
        Ok(())
    }

    /// Learns of its issuer what is on record, of which the token brought a part: what this node
    /// says next follows what it had said before, in an earlier membership too, and nothing of that
    /// is lost when one of the two ends.
    async fn hear_record(&self, token: &InviteToken) {
        for seed in &token.seeds {
            let question = self.keyring.question(false).into();
            let asked = Request::Trust { question };
            let answer = self
                .net
                .request(token.issuer, *seed, Lane::Bulk, asked)
                .await;
            if let Ok(Response::Trust { answer }) = answer {
                let (_lacks_some, _fault) = self.keyring.hear_answer(&answer);
                return;
            }
        }
    }

    /// Puts a node out of the cluster, then gives the others a fresh secret as [`Self::rotate`]
    /// does. Where the second fails, the node is out all the same.
    ///
    /// # Errors
    /// [`NodeError::Trust`] where this node may not, or that one is no member;
    /// [`NodeError::Stopping`].
    pub async fn expel(&self, node: NodeId) -> Result<EpochId, NodeError> {
        self.keyring.expel(&self.key, node)?;
        self.go_on_without().await
    }

    /// The same, and puts out all who are in by that node's word alone. One that is out already can
    /// be named too.
    ///
    /// # Errors
    /// As [`Self::expel`].
    pub async fn expel_with_admitted(&self, node: NodeId) -> Result<EpochId, NodeError> {
        self.keyring.expel_with_admitted(&self.key, node)?;
        self.go_on_without().await
    }

    async fn go_on_without(&self) -> Result<EpochId, NodeError> {
        // who is out is out, also where the secret cannot be kept
        self.command(Command::MembershipChanged).await?;
        self.rotate().await
    }

    /// Who is in by a node's word alone, directly or through others whom it admitted.
    ///
    /// # Errors
    /// As [`Self::expel`].
    pub fn admitted_by_it_alone(&self, node: NodeId) -> Result<Vec<Certificate>, NodeError> {
        Ok(self.keyring.admitted_by_it_alone(&self.key, node)?)
    }

    /// Makes a member the owner of a path, or nobody: at and below it nobody else's version is
    /// listed then, on any node.
    ///
    /// # Errors
    /// [`NodeError::Trust`] where this node may not, that one is no member, or the path is longer
    /// than [`OWNED_PATH_MAX_BYTES`](p2pfs_proto::trust::OWNED_PATH_MAX_BYTES); [`NodeError::Stopping`].
    pub async fn own(&self, path: &SharedPath, owner: Option<NodeId>) -> Result<(), NodeError> {
        self.keyring.own(&self.key, path.as_bytes(), owner)?;
        self.command(Command::MembershipChanged).await
    }

    /// Gives the members a fresh secret; the old one ends soon after.
    ///
    /// # Errors
    /// [`NodeError::Trust`] where this node may not; [`NodeError::Stopping`].
    pub async fn rotate(&self) -> Result<EpochId, NodeError> {
        let epoch = self.keyring.rotate(&self.key)?;
        self.command(Command::MembershipChanged).await?;
        Ok(epoch)
    }

    /// Forgets what a node that is not here has listed. False where it is here, or unknown.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn forget(&self, node: NodeId) -> Result<bool, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Forget(node, reply)).await?;
        answer.await.map_err(|_| NodeError::Stopping)
    }

    /// Says in the ledger that this node goes; the others hear of it before it is gone.
    async fn resign(&self) {
        let me = self.id();
        if let Err(error) = self.keyring.expel(&self.key, me) {
            if self.keyring.has_ledger() && self.keyring.is_member(&me) {
                tracing::warn!(
                    "the others take this node for a member until it is expelled: {error}"
                );
            }
        } else if self.command(Command::MembershipChanged).await.is_ok() {
            tokio::time::sleep(RESIGNATION_HEARD).await;
        }
    }

    /// Says farewell to the others and ends the loop; returns when it is said.
    pub async fn stop(&self, leave: Leave) {
        if leave == Leave::Final {
            self.resign().await;
        }
        let mut stopping = self.running.stopping.clone();
        let said = async {
            if self.command(Command::Leave(leave)).await.is_ok() {
                let _ended = stopping.wait_for(|stopped| *stopped).await;
            }
        };
        let lan = self.running.lan.lock().take();
        let hidden = async {
            if let Some(lan) = lan {
                lan.shutdown().await;
            }
        };
        let _too_slow =
            tokio::time::timeout(FAREWELL_LIMIT, async { tokio::join!(said, hidden) }).await;
    }

    async fn command(&self, command: Command) -> Result<(), NodeError> {
        self.running
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
