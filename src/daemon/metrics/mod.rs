//! Metrics for Prometheus, where the configuration turns them on: read over HTTP, on this machine
//! alone.
//!
//! Owns the endpoint and the names of the metrics ([`families`]). Counts nothing itself: each
//! reading is made of what the node knows at that moment.

mod families;
mod http;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use rustix::net::SocketType;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answers::Service;
use super::config::MetricsAddress;
use p2pfs_types::files::socket_place::make_way;

/// Readers at one time; the next one waits.
const READERS_MAX: usize = 8;
/// How long one reader may take from its connection to its last byte.
const READER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long accepting pauses when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers readers from now on, where the configuration says so. A node without metrics does its
/// work all the same, so one that cannot be read is a warning.
pub(super) async fn start(service: &Arc<Service>) {
    let Some(address) = &service.config.metrics.listen else {
        return;
    };
    match Endpoint::bind(address).await {
        Ok(endpoint) => drop(tokio::spawn(endpoint.serve(service.clone()))),
        Err(error) => {
            let message = format!("no metrics on {address}: {error}; set metrics.listen");
            service.node.warn(message);
        }
    }
}

/// Where readers come from.
enum Endpoint {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Endpoint {
    /// Binds it; a socket's file that nobody listens on any more is replaced, and any user may
    /// read.
    ///
    /// # Errors
    /// What the system says.
    async fn bind(address: &MetricsAddress) -> io::Result<Self> {
        match address {
            MetricsAddress::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            MetricsAddress::Unix(path) => {
                make_way(path, SocketType::STREAM)?;
                let listener = UnixListener::bind(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
                Ok(Self::Unix(listener))
            }
        }
    }

    /// Answers readers for ever.
    async fn serve(self, service: Arc<Service>) {
        let places = Arc::new(Semaphore::new(READERS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let service = service.clone();
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _place = place;
                        answer(stream, &service).await;
                    });
                }),
                Self::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _place = place;
                        answer(stream, &service).await;
                    });
                }),
            };
            if accepted.is_err() {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, service: &Service) {
    let answered = timeout(
        READER_TIME_MAX,
        http::answer(stream, || families::text(service)),
    )
    .await;
    if let Ok(Err(error)) = answered {
        tracing::debug!("a reader of the metrics was not answered: {error}");
    }
}
