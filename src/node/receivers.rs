//! The queues that feed the event loop, from where each is opened until the loop has them.

use std::sync::mpsc as std_mpsc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::own_thread::OwnThread;
use super::run::{Command, Inputs, Runner};
use crate::cache::CacheEvent;
use crate::net::gossip::UdpPort;
use crate::net::lan::LanEvent;
use crate::net::peer::Incoming;
use crate::share::ShareEvent;
use crate::transfer::FetchEvent;

/// Cache events on their way to the loop.
const CACHE_EVENTS_MAX: usize = 4096;

/// The queues that were opened with what fills them.
pub(super) struct Receivers {
    pub own_thread: OwnThread,
    pub udp: UdpPort,
    pub incoming: mpsc::Receiver<Incoming>,
    pub shares: mpsc::Receiver<ShareEvent>,
    pub cache: std_mpsc::Receiver<CacheEvent>,
    pub mesh: Option<TcpListener>,
}

impl Receivers {
    /// Starts the loop with these and those that were made since, on its own thread.
    pub(super) fn feed(
        self,
        runner: Runner,
        fetches: mpsc::Receiver<FetchEvent>,
        lan: mpsc::Receiver<LanEvent>,
        commands: mpsc::Receiver<Command>,
    ) {
        let inputs = Inputs {
            incoming: self.incoming,
            shares: self.shares,
            cache: bridge(self.cache),
            fetches,
            lan,
            commands,
        };
        self.own_thread.start(|udp| runner.run(inputs, udp));
    }
}

/// The cache tells its events from threads that may wait; the loop may not.
fn bridge(events: std_mpsc::Receiver<CacheEvent>) -> mpsc::Receiver<CacheEvent> {
    let (to, from) = mpsc::channel(CACHE_EVENTS_MAX);
    let forward = move || {
        while let Ok(event) = events.recv() {
            if to.blocking_send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("cache-events".to_owned())
        .spawn(forward)
        .expect("a process that just started can start a thread");
    from
}
