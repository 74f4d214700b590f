//! The queues that feed the event loop, from their opening until the loop takes them.

use tokio::sync::mpsc;

use super::cache_news::CacheNews;
use super::deletions::DeletionRequest;
use super::own_thread::OwnThread;
use super::read_watch::ReadEnd;
use super::run::{EventLoop, Inputs, LoopCommand};
use p2pfs_content::shares::ShareEvent;
use p2pfs_fetch::FetchEvent;
use p2pfs_proto::trust::TrustCommand;
use p2pfs_transfer::net::gossip::UdpPort;
use p2pfs_transfer::net::lan::LanEvent;
use p2pfs_transfer::net::peer::Incoming;

/// The queues that were opened together with their sources.
pub(super) struct Receivers {
    pub own_thread: OwnThread,
    pub udp: UdpPort,
    pub incoming: mpsc::Receiver<Incoming>,
    pub shares: mpsc::Receiver<ShareEvent>,
    pub cache: mpsc::Receiver<CacheNews>,
    pub trust: mpsc::Receiver<TrustCommand>,
}

impl Receivers {
    /// Starts the loop on its own thread, with these queues and those that were opened after them.
    pub(super) fn feed(
        self,
        event_loop: EventLoop,
        fetches: mpsc::Receiver<FetchEvent>,
        reads: mpsc::Receiver<ReadEnd>,
        lan: mpsc::Receiver<LanEvent>,
        commands: mpsc::Receiver<LoopCommand>,
        deletions: mpsc::UnboundedReceiver<DeletionRequest>,
    ) {
        let inputs = Inputs {
            incoming: self.incoming,
            shares: self.shares,
            cache: self.cache,
            fetches,
            reads,
            lan,
            commands,
            deletions,
            trust: self.trust,
        };
        self.own_thread.start(|udp| event_loop.run(inputs, udp));
    }
}
