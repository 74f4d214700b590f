//! The event loop's own thread, and the tasks that the loop starts beside it.
//!
//! Owns that thread and its end. The runtime's threads encrypt and hash, so on a busy machine they
//! wait for the processor. A loop among them would answer too late, and other nodes would take this
//! one for dead. The scheduler runs a thread that mostly sleeps soon after it wakes up, however
//! many others are runnable (EEVDF; CFS before it).

use std::future::{Future, pending};

use tokio::runtime::{self, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use p2pfs_transfer::net::NetError;
use p2pfs_transfer::net::gossip::{UdpInlet, UdpPort};

/// The resources of the thread before it runs.
pub(super) struct OwnThread {
    runtime: Runtime,
    udp: UdpInlet,
}

impl OwnThread {
    /// Opens the runtime of the thread and its view of the UDP socket.
    ///
    /// # Errors
    /// [`NetError::Bind`] if the system has no resources left.
    pub(super) fn prepare(port: &UdpPort) -> Result<Self, NetError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let opened = runtime.and_then(|runtime| {
            let udp = {
                let _here = runtime.enter();
                port.inlet()?
            };
            Ok(Self { runtime, udp })
        });
        opened.map_err(|error| NetError::Bind {
            address: port.local_addr(),
            kind: error.kind(),
        })
    }

    /// Runs the loop on its own thread until it ends, or until the calling runtime shuts down.
    pub(super) fn start<F: Future<Output = ()>>(
        self,
        run: impl FnOnce(UdpInlet) -> F + Send + 'static,
    ) {
        let (held, let_go) = oneshot::channel();
        tokio::spawn(hold(held));
        let Self { runtime, udp } = self;
        let live = move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = run(udp) => {}
                    _ended = let_go => {}
                }
            });
        };
        std::thread::Builder::new()
            .name("node".to_owned())
            .spawn(live)
            .expect("a process that just started can start a thread");
    }
}

/// Lasts as long as the runtime, or until the loop has ended.
async fn hold(mut loop_end: oneshot::Sender<()>) {
    loop_end.closed().await;
}

/// Tasks that the loop starts without waiting for them, on the runtime in which the node was
/// started. They end with the loop.
pub(super) struct LoopTasks {
    tasks: JoinSet<()>,
    runtime: Handle,
}

impl LoopTasks {
    /// Needs a running tokio runtime.
    pub(super) fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            runtime: Handle::current(),
        }
    }

    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Returns when a task has ended. Never returns if there is none.
    pub(super) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            pending().await
        }
    }
}
