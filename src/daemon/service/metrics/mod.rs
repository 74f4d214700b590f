//! Metrics for Prometheus over HTTP, on this machine only, if the configuration enables them.
//!
//! Owns the endpoint and the names of the metrics ([`families`]). Counts nothing itself: each
//! response is computed from the current state of the node.

mod disks;
mod families;
mod http;
mod ordered_family;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketType;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::disks::Disks;
use super::services::Services;
use crate::daemon::config::MetricsAddress;
use p2pfs_node::{Condition, Finding};
use p2pfs_types::files::socket_place::{make_way, open_to_connect, plain_place};

/// Maximum concurrent readers; the next one waits.
const READERS_MAX: usize = 8;
/// How long one reader may take from its connection to its last byte.
const READER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long accepting pauses after a failure, for instance without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Starts the endpoint, if it is configured. A failure is only a warning, because a node works
/// without metrics.
pub(super) async fn start(services: &Arc<Services>) {
    let Some(address) = &services.settings.at_start.metrics.listen else {
        return;
    };
    match Endpoint::bind(address).await {
        Ok(endpoint) => drop(tokio::spawn(endpoint.serve(services.clone()))),
        Err(error) => {
            let found = Finding::new(format!("no metrics on {address}: {error}"));
            services
                .node
                .events()
                .begin(Condition::NoMetrics, "", found);
        }
    }
}

/// The listening socket.
enum Endpoint {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Endpoint {
    /// Binds the endpoint. Replaces a socket file without a listener, and lets any user read.
    ///
    /// # Errors
    /// The error of the system.
    async fn bind(address: &MetricsAddress) -> io::Result<Self> {
        match address {
            MetricsAddress::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            MetricsAddress::Unix(path) => {
                let path = plain_place(path)?;
                make_way(&path, SocketType::STREAM)?;
                let listener = UnixListener::bind(&path)?;
                open_to_connect(&path)?;
                Ok(Self::Unix(listener))
            }
        }
    }

    /// Answers readers forever.
    async fn serve(self, services: Arc<Services>) {
        let places = Arc::new(Semaphore::new(READERS_MAX));
        let config = &services.settings.at_start;
        let disks = Arc::new(Disks::new([
            ("cache", config.cache_dir.clone()),
            ("state", config.state_dir.clone()),
        ]));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let (services, disks) = (services.clone(), disks.clone());
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _place = place;
                        answer(stream, &services, &disks).await;
                    });
                }),
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _place = place;
                        answer(stream, &services, &disks).await;
                    });
                }),
            };
            if accepted.is_err() {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, services: &Services, disks: &Disks) {
    let answered = timeout(
        READER_TIME_MAX,
        http::answer(stream, || families::text(services, disks)),
    )
    .await;
    if let Ok(Err(error)) = answered {
        tracing::debug!("a reader of the metrics was not answered: {error}");
    }
}
