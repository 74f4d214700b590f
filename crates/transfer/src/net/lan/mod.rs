//! Search for nodes on the local network by multicast DNS (RFC 6762, RFC 6763).
//!
//! The node announces its address under a name that is random at each start, without further text.
//! So a listener learns that some p2pfs node is there, but not which one. Received addresses are
//! only hints, because any host on the network may send them. The memory, the answers and the hints
//! have fixed limits, independent of the traffic. Without multicast there is a warning, and the
//! search begins once an interface supports it.
//!
//! ```text
//! links (sockets) ──datagram──▶ machine ──▶ message (reads, writes)
//!        ◀──────question, answer───┘  └───▶ known (table, order of hints) ──▶ LanEvent
//! ```

pub mod known;
mod links;
pub mod machine;
pub mod message;
pub mod subnet;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until, timeout};

pub use known::{HINTS_AT_ONCE, HINTS_PER_S, NODES_MAX, NODES_PER_SENDER_MAX};
use links::MulticastLinks;
use machine::{Machine, Output};
pub use message::DATAGRAM_MAX_BYTES;

use p2pfs_types::id::to_hex;

/// Maximum events that wait in the channel of [`Lan::start`]. Further ones are dropped.
const QUEUE: usize = 64;
/// Maximum duration of the farewell to the network.
const FAREWELL: Duration = Duration::from_millis(500);
/// Interval of the interface scans. A network may appear after the daemon starts, and disappear
/// before it ends.
const RENEWAL_PERIOD: Duration = Duration::from_secs(5);

/// Maximum requests for the announced addresses that wait for the search.
const REQUESTS: usize = 8;

/// Result of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LanEvent {
    /// A node may be at this address.
    Hint(SocketAddr),
    /// Nodes on the local network will not be found automatically, with the reason. Sent at most
    /// once before the search begins, and once after.
    NoMulticast(String),
    /// The search works now. Sent once at the recovery from a [`LanEvent::NoMulticast`].
    Multicast,
}

/// Announcement and search. Both end when it is dropped.
pub struct Lan {
    stop: oneshot::Sender<oneshot::Sender<()>>,
    requests: mpsc::Sender<NodesRequest>,
    running: AbortOnDrop,
}

/// Request for addresses of announced nodes.
struct NodesRequest {
    count: usize,
    reply: oneshot::Sender<Vec<SocketAddr>>,
}

/// Access to the nodes that a search has found. Clones read the same search.
#[derive(Clone, Debug)]
pub struct AnnouncedNodes(mpsc::Sender<NodesRequest>);

impl AnnouncedNodes {
    /// Returns up to `count` addresses at which other nodes announce themselves, one of each node.
    /// Any host on the network may have invented them. Returns none after the end of the search.
    pub async fn addresses(&self, count: usize) -> Vec<SocketAddr> {
        let (reply, answer) = oneshot::channel();
        let request = NodesRequest { count, reply };
        if self.0.send(request).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }
}

struct AbortOnDrop(AbortHandle);

impl Lan {
    /// Announces `address`, or the addresses of the machine if it is unspecified, and searches for
    /// other nodes. Needs a running tokio runtime. If no interface allows the search, the receiver
    /// gets the reason, and the interfaces are checked again every few seconds.
    pub fn start(address: SocketAddr) -> (Self, mpsc::Receiver<LanEvent>) {
        let (events, receiver) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let (requests, request_queue) = mpsc::channel(REQUESTS);
        let mut random = [0; 8];
        let random = aws_lc_rs::rand::fill(&mut random).map(|()| to_hex(&random));
        let machine = random.ok().and_then(|label| {
            let now = Instant::now().into_std();
            Machine::new(address, &label, now)
        });
        let search = async move {
            match machine {
                Some(machine) => {
                    let search = Search::new(address, machine, events);
                    search.run(stopped, request_queue).await;
                }
                None => {
                    let why = "the system gives no random bytes".to_owned();
                    let _ = events.try_send(LanEvent::NoMulticast(why));
                }
            }
        };
        let running = AbortOnDrop(tokio::spawn(search).abort_handle());
        let search = Self {
            stop,
            requests,
            running,
        };
        (search, receiver)
    }

    /// Returns the access to the nodes that are found.
    pub fn announced_nodes(&self) -> AnnouncedNodes {
        AnnouncedNodes(self.requests.clone())
    }

    /// Withdraws the announcement and ends the search.
    pub async fn shutdown(self) {
        let (ended, end) = oneshot::channel();
        if self.stop.send(ended).is_ok() {
            let _too_slow = timeout(FAREWELL, end).await;
        }
        drop(self.running);
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Running search.
struct Search {
    address: SocketAddr,
    machine: Machine,
    links: MulticastLinks,
    events: mpsc::Sender<LanEvent>,
    /// Whether any link has been open.
    begun: bool,
    /// Whether a warning was sent in the current phase, before the search began or after.
    warned: bool,
    /// Whether any datagram has been sent.
    sent: bool,
    /// Whether the last report was a warning.
    troubled: bool,
}

impl Search {
    fn new(address: SocketAddr, machine: Machine, events: mpsc::Sender<LanEvent>) -> Self {
        let mut search = Self {
            address,
            machine,
            links: MulticastLinks::default(),
            events,
            begun: false,
            warned: false,
            sent: false,
            troubled: false,
        };
        search.renew_links();
        search
    }

    async fn run(
        mut self,
        mut stopped: oneshot::Receiver<oneshot::Sender<()>>,
        mut requests: mpsc::Receiver<NodesRequest>,
    ) {
        let mut renewal = interval(RENEWAL_PERIOD);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renewal.tick().await;
        let mut buffer = vec![0; DATAGRAM_MAX_BYTES + 1];
        loop {
            self.act();
            let wake = self.machine.poll_at().map(Instant::from_std);
            let wake = wake.unwrap_or_else(|| Instant::now() + RENEWAL_PERIOD);
            tokio::select! {
                (id, length, from) = self.links.receive(&mut buffer) => {
                    let now = Instant::now().into_std();
                    self.machine.receive(id, from, &buffer[..length], now);
                }
                () = sleep_until(wake) => {}
                _ = renewal.tick() => self.renew_links(),
                Some(request) = requests.recv() => {
                    let now = Instant::now().into_std();
                    let nodes = self.machine.announced_nodes(request.count, now);
                    let _gone = request.reply.send(nodes);
                }
                ended = &mut stopped => {
                    self.say_goodbye();
                    let _ = ended.map(|ended| ended.send(()));
                    return;
                }
            }
        }
    }

    fn renew_links(&mut self) {
        // A link whose socket broke may open again below. It must count as a new link, because
        // other nodes may have missed what was sent meanwhile.
        let now = Instant::now().into_std();
        self.machine.set_links(&self.links.all(), now);
        let refused = self.links.renew(self.address.ip()).err();
        if !self.begun && !self.links.is_empty() {
            self.begun = true;
            self.warned = false;
            self.report_recovery();
        }
        if !self.begun {
            let none = || "no network interface has an address and multicast".to_owned();
            self.warn(refused.map_or_else(none, |error| error.to_string()));
        }
        self.machine.set_links(&self.links.all(), now);
    }

    fn act(&mut self) {
        let now = Instant::now().into_std();
        while let Some(output) = self.machine.poll(now) {
            match output {
                Output::Hint(address) => {
                    let _ = self.events.try_send(LanEvent::Hint(address));
                }
                Output::Send(id, datagram) => match self.links.send(id, &datagram) {
                    Ok(()) => {
                        self.sent = true;
                        self.report_recovery();
                    }
                    Err(error) if !self.sent => self.warn(error.to_string()),
                    Err(_) => {}
                },
            }
        }
    }

    fn warn(&mut self, why: String) {
        if !self.warned {
            self.warned = true;
            self.troubled = self.events.try_send(LanEvent::NoMulticast(why)).is_ok();
        }
    }

    /// Reports that the search works, if a warning was reported. If the queue is full, the next
    /// datagram that is sent reports it.
    fn report_recovery(&mut self) {
        if self.troubled {
            self.troubled = self.events.try_send(LanEvent::Multicast).is_err();
        }
    }

    fn say_goodbye(&self) {
        for (id, datagram) in self.machine.farewell() {
            let _ = self.links.send(id, &datagram);
        }
    }
}
