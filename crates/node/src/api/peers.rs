//! The other nodes: their names, their state, and whether they answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::commands::CommandSender;
use crate::run::{LoopCommand, NodeHandles};
use crate::{MemberReport, NodeError, Offence};
use p2pfs_fetch::PeerRate;
use p2pfs_membership::MemberState;
use p2pfs_proto::wire::native::tcp::{Lane, Request, Response};
use p2pfs_transfer::net::NetError;
use p2pfs_transfer::net::lan::{AnnouncedNodes, NODES_MAX};
use p2pfs_transfer::net::peer::Probed;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// Minimum number of consecutive unanswered requests for which an alive node is reported as mute.
pub const MUTE_MIN: u32 = 3;
/// How long these requests must be unanswered. By then a node that has died is no longer alive to
/// the cluster.
const MUTE_AFTER: Duration = Duration::from_secs(8);

/// One other node.
#[derive(Clone, Debug)]
pub struct PeerReport {
    /// The state and address of the node in the membership.
    pub member: MemberReport,
    /// Bytes fetched from the node and their rate; `None` if the fetcher does not know the node.
    pub rate: Option<PeerRate>,
    /// Bytes of files received from the node, fetched or pushed.
    pub received_bytes: u64,
    /// Bytes of files sent to the node, requested or pushed.
    pub sent_bytes: u64,
    /// How often the node broke a rule, and the last case.
    pub offences: Option<(u64, Offence)>,
    /// Time since the last case.
    pub last_offence_age: Option<Duration>,
}

/// The answer of another node that was asked to dial this one back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Clock of the other node when it answered, in Unix milliseconds; `None` if it was too busy
    /// for the request.
    pub unix_ms: Option<u64>,
    /// The reason why the other node did not reach this one, or `None` if it did or was too busy.
    pub trouble: Option<String>,
}

/// The other nodes, as a node knows them. [`Node::peers`](crate::Node::peers) returns it.
pub struct NodePeers {
    pub(crate) commands: CommandSender,
    pub(crate) handles: NodeHandles,
    /// The nodes that multicast DNS finds, or `None` if this node does not use it.
    pub(crate) nearby: Option<AnnouncedNodes>,
}

impl NodePeers {
    /// Returns the state of every other known node in the membership.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn members(&self) -> Result<Vec<MemberReport>, NodeError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(LoopCommand::Members(reply)).await?;
        answer.await.map_err(|_| NodeError::Stopping)
    }

    /// Returns the state, traffic and offences of every other known node.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn reports(&self) -> Result<Vec<PeerReport>, NodeError> {
        let members = self.members().await?;
        let rates = self.handles.fetcher.peers();
        let report = |member: MemberReport| {
            let node = member.status.member.node;
            let rate = rates.iter().find(|rate| rate.node == node).cloned();
            let fetched_bytes = rate.as_ref().map_or(0, |rate| rate.delivered_bytes);
            PeerReport {
                received_bytes: fetched_bytes + self.handles.traffic.taken.of(&node),
                rate,
                sent_bytes: self.handles.traffic.sent.of(&node),
                offences: self.handles.offenders.of(&node),
                last_offence_age: self.handles.offenders.last_age(&node),
                member,
            }
        };
        Ok(members.into_iter().map(report).collect())
    }

    /// Returns the nodes that are alive, but have left at least [`MUTE_MIN`] requests for files
    /// unanswered for 8 s.
    pub fn mute(&self) -> Vec<NodeId> {
        let members = self.handles.published.members.load();
        let is_alive = |node: &NodeId| {
            let place = members.binary_search_by_key(node, |it| it.status.member.node);
            let member = place.ok().and_then(|place| members.get(place));
            member.is_some_and(|it| it.status.state == MemberState::Alive)
        };
        let rates = self.handles.fetcher.peers().into_iter();
        let mute = rates.filter(|rate| {
            let since = rate.unanswered_since;
            rate.unanswered >= MUTE_MIN && since.is_some_and(|at| at.elapsed() >= MUTE_AFTER)
        });
        mute.map(|rate| rate.node).filter(is_alive).collect()
    }

    /// Forgets the listings of a node that is not live, until the node is live again or has a newer
    /// listing.
    ///
    /// # Errors
    /// [`NodeError::NotForgotten`] if the listings stay, [`NodeError::Stopping`].
    pub async fn forget(&self, node: NodeId) -> Result<(), NodeError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(LoopCommand::Forget(node, reply)).await?;
        answer.await.map_err(|_| NodeError::Stopping)??;
        Ok(())
    }

    /// Returns the name of a node: the name in its certificate or from its last admission, else the
    /// name that the node gives itself, else the start of its key.
    pub fn name_of(&self, node: &NodeId) -> String {
        self.handles.names.of(node)
    }

    /// Returns the name of a node as [`Self::name_of`] does, or `None` if only its key is known.
    pub fn label_of(&self, node: &NodeId) -> Option<String> {
        self.handles.names.known(node)
    }

    /// Returns whether `wanted` is the name of the node or the start of its key.
    pub fn is_called(&self, node: &NodeId, wanted: &str) -> bool {
        node.begins_with(wanted) || self.name_of(node) == wanted
    }

    /// Returns the addresses at which members were last reached, possibly before the start of this
    /// node.
    pub fn last_addresses(&self) -> Vec<SocketAddr> {
        self.handles.published.last_addresses.load().to_vec()
    }

    /// Returns up to [`NODES_MAX`] addresses at which nodes announce themselves on the local
    /// network, one of each node. They may be members or not, and any host on the network may have
    /// invented them.
    pub async fn announced(&self) -> Vec<SocketAddr> {
        match &self.nearby {
            Some(nearby) => nearby.addresses(NODES_MAX).await,
            None => Vec::new(),
        }
    }

    /// Adds another address to join through.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn add_seed(&self, address: SocketAddr) -> Result<(), NodeError> {
        self.commands.send(LoopCommand::AddSeed(address)).await
    }

    /// Finds out which node answers at an address over TCP, within `patience`.
    pub async fn probe(&self, address: SocketAddr, patience: Duration) -> Probed {
        self.handles.net.probe_within(address, patience).await
    }

    /// Measures how long another node takes to answer a request over an open TCP connection.
    ///
    /// # Errors
    /// [`NodeError::Net`] if the other node does not answer.
    pub async fn tcp_round_trip(
        &self,
        node: NodeId,
        address: SocketAddr,
    ) -> Result<Duration, NodeError> {
        self.handles.net.warm(node, address, Lane::Urgent).await?;
        let begun = Instant::now();
        // The cheapest request: which parts of the empty content the other node has.
        let hash = ContentHash::of(&[]);
        let question = Request::Holdings { hash };
        self.handles
            .net
            .request(node, address, Lane::Urgent, question)
            .await?;
        Ok(begun.elapsed())
    }

    /// Finds out whether this node can dial another one, and whether that node answers requests.
    ///
    /// # Errors
    /// [`NodeError::Net`] if the other node cannot be dialled or does not answer.
    pub async fn dial(&self, node: NodeId, address: SocketAddr) -> Result<(), NodeError> {
        let net = &self.handles.net;
        if net.is_dialled_by(node, Lane::Urgent) && net.knock(address).await? != node {
            let why = "another node answers there".to_owned();
            return Err(NetError::WrongNode { address, why }.into());
        }
        self.tcp_round_trip(node, address).await.map(drop)
    }

    /// Asks another node to dial this one, to find out whether that node can reach this one.
    ///
    /// # Errors
    /// [`NodeError::Net`] if the other node does not answer, or does not know the request.
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
            // The other node is too busy to try.
            _ => Reached::default(),
        })
    }

    /// Returns the number of offences of other nodes by kind, since the start.
    pub fn offences(&self) -> Vec<(&'static str, u64)> {
        self.handles.offenders.counts()
    }
}
