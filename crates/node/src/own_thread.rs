//! The thread that the event loop has to itself, and what the loop starts beside it.
//!
//! Owns that thread and its end. The threads of the runtime encrypt and hash, so on a machine that
//! has more to do than processors they wait for their turn with everybody else: a loop among them
//! answers too late, and the other nodes take this one for dead. A thread that mostly sleeps is
//! run soon after it is woken, however many others want to run (EEVDF; CFS before it).

use std::future::{Future, pending};

use tokio::runtime::{self, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use p2pfs_transfer::net::NetError;
use p2pfs_transfer::net::gossip::{UdpInlet, UdpPort};

/// The thread before it runs.
pub(super) struct OwnThread {
    runtime: Runtime,
    udp: UdpInlet,
}

impl OwnThread {
    /// Opens what the thread waits with.
    ///
    /// # Errors
    /// [`NetError::Bind`] where the system has no more of it.
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

    /// Runs the loop until it ends, or the runtime that this is called in is shut down.
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

/// Tasks that the loop starts and does not wait for, on the threads of the runtime that the node
/// was started in. They end with the loop.
pub(super) struct Beside {
    tasks: JoinSet<()>,
    runtime: Handle,
}

impl Beside {
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

    /// Returns when one of them has ended; never where there is none.
    pub(super) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            pending().await
        }
    }
}
