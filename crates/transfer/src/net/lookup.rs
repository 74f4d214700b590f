//! Lookups of host names by the resolver of the system.
//!
//! Each lookup has a thread of its own. A runtime waits for its blocking threads when it ends, so a
//! resolver that hangs on one of them would delay the end of the process.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread::Builder;

use tokio::sync::{Semaphore, oneshot};

/// Maximum number of lookups at one time. Further ones wait.
const LOOKUPS_MAX: usize = 64;

static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// Resolves a host name to all its addresses. If the future is dropped, the lookup ends later.
///
/// # Errors
/// The error of the resolver, or of the system if it starts no thread.
pub async fn resolve_host(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let host = host.to_owned();
    on_own_thread(move || Ok((host.as_str(), port).to_socket_addrs()?.collect())).await
}

async fn on_own_thread<T: Send + 'static>(
    lookup: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    // The semaphore is never closed.
    let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let (found, result) = oneshot::channel();
    let run = move || {
        // If sending fails, the caller no longer waits.
        let _ = found.send(lookup());
        drop(permit);
    };
    Builder::new().name("resolver".to_owned()).spawn(run)?;
    result.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_lookup_that_hangs_does_not_delay_the_end_of_its_runtime() {
        const PATIENCE: Duration = Duration::from_secs(30);
        let (begun, begins) = mpsc::channel();
        let (_never, hangs) = mpsc::channel::<()>();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        runtime.spawn(on_own_thread(move || {
            begun.send(()).unwrap();
            hangs.recv().map_err(io::Error::other)
        }));
        begins.recv().unwrap();
        let since = Instant::now();
        runtime.shutdown_timeout(PATIENCE);
        assert!(since.elapsed() < PATIENCE / 2);
    }

    #[tokio::test]
    async fn localhost_is_found_and_an_unknown_host_is_not() {
        let found = resolve_host("localhost", 7).await.unwrap();
        assert!(
            found
                .iter()
                .all(|it| it.ip().is_loopback() && it.port() == 7)
        );
        assert!(!found.is_empty());
        assert!(resolve_host("no-such-host.invalid", 7).await.is_err());
    }
}
