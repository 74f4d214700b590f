//! The thread of the event loop, and the tasks that the loop starts on the runtime of the program.
//!
//! The threads of that runtime encrypt and hash, so they wait for the processor on a busy machine.
//! If the loop ran on them, it could answer probes too late, and other nodes would consider this
//! node dead. The loop's own thread sleeps most of the time. When such a thread wakes up, the
//! scheduler (EEVDF, formerly CFS) runs it soon, however many other threads are runnable.

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

/// Keeps `loop_end` until the loop has ended. If the runtime shuts down first, it drops this task
/// and `loop_end` with it, which ends the loop.
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
    /// Creates an empty set. Panics outside of a tokio runtime; the tasks will run on the current
    /// one.
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
