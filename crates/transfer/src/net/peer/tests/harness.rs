//! Test nodes on loopback, or joined by a pipe in virtual time.

use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::super::accept::serve_stream;
use super::super::connection::Connection;
use super::super::greet::prove;
use super::super::queue_limit::QueueLimitedStream;
use super::super::tcp_info::TcpGauge;
use super::super::*;
use p2pfs_proto::trust::{EpochSecret, TestKeyring};
use p2pfs_records::TlsStream;

pub(super) const ANYWHERE: &str = "127.0.0.1:0";
/// More bytes than any frame of the tests, so that a pipe never blocks unless a test wants it to.
const PIPE_BYTES: usize = 4 << 20;

/// Node of a test.
pub(super) struct Node {
    pub(super) net: PeerNet,
    pub(super) requests: mpsc::Receiver<Incoming>,
    pub(super) keyring: Arc<TestKeyring>,
    pub(super) key: Arc<NodeKey>,
    pub(super) id: NodeId,
}

impl Node {
    pub(super) fn new(secret: u8) -> Self {
        Self::with_limits(secret, PeerLimits::default())
    }

    pub(super) fn with_limits(secret: u8, limits: PeerLimits) -> Self {
        let keyring = Arc::new(TestKeyring::in_memory(EpochSecret::new([secret; 32])));
        Self::with(Arc::new(NodeKey::random()), keyring, limits)
    }

    /// Joins a cluster. The settings of the node name no node.
    pub(super) fn join(&self, secret: EpochSecret, chain: &[u8]) {
        let joined = self.keyring.join(secret, chain, &Default::default());
        joined.unwrap();
    }

    /// Returns a node that founded its own cluster, with certificates.
    pub(super) fn founder(name: &str) -> Self {
        let key = Arc::new(NodeKey::random());
        let name = NodeName::new(name).unwrap();
        let keyring = TestKeyring::founded_in_memory(EpochSecret::random(), &key, name, 1000);
        Self::with(key, Arc::new(keyring), PeerLimits::default())
    }

    pub(super) fn with(key: Arc<NodeKey>, keyring: Arc<TestKeyring>, limits: PeerLimits) -> Self {
        let id = key.node_id();
        let address = ANYWHERE.parse().unwrap();
        keyring.set_key(&key);
        let (ledger, mut commands) = LedgerHandle::new(keyring.reader());
        let owner = Arc::clone(&keyring);
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                owner.command(command);
            }
        });
        let (net, requests) = PeerNet::bind(address, &key, ledger, limits).unwrap();
        Self {
            net,
            requests,
            keyring,
            key,
            id,
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.net.local_addr()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.net.owner.shared
    }

    /// Sends a small request to `other`.
    pub(super) async fn ask(&self, other: &Seen, lane: Lane) -> Result<Response, NetError> {
        self.net
            .request(other.id, other.addr, lane, question())
            .await
    }

    /// Returns what another node must know of this one.
    pub(super) fn seen(&self) -> Seen {
        Seen {
            id: self.id,
            addr: self.addr(),
        }
    }

    /// Answers every request with the lane's name from now on.
    pub(super) fn answer_all(mut self) -> (Seen, PeerNet, JoinHandle<()>) {
        let (seen, net) = (self.seen(), self.net.clone());
        let answering = tokio::spawn(async move {
            while let Some(incoming) = self.requests.recv().await {
                let reason = format!("{:?}", incoming.lane);
                incoming.reply.send(Response::Refused { reason });
            }
        });
        (seen, net, answering)
    }

    /// Returns a TLS connection with proven membership, for arbitrary bytes.
    pub(super) async fn proven(&self, other: &Seen) -> TlsStream<impl Wire + use<>> {
        let mut stream = connect(self.shared(), other.id, other.addr, || ())
            .await
            .unwrap();
        prove(self.shared(), &mut stream, Lane::Urgent)
            .await
            .unwrap();
        stream
    }

    /// Returns a connection over one end of a pipe, for tests in virtual time.
    pub(super) async fn over(
        &self,
        near: impl Wire + TcpGauge + 'static,
        node: NodeId,
    ) -> Arc<Connection> {
        let shared = Arc::clone(self.shared());
        let dialler = shared.local.tls.dialler(Some(node)).unwrap();
        let dialling = tls::dial(&dialler, QueueLimitedStream::new(near), || ());
        let mut stream = dialling.await.unwrap();
        prove(&shared, &mut stream, Lane::Bulk).await.unwrap();
        let nowhere = ANYWHERE.parse().unwrap();
        let proven = Connection::new(&shared, stream, node, nowhere, Lane::Bulk);
        let (connection, reading) = proven.unwrap();
        let hosted = Arc::clone(&connection);
        tokio::spawn(async move { shared.host(&hosted, reading).await });
        connection
    }

    /// Returns a connection to `other` over a pipe, and a task that yields the reason why the
    /// serving side ended.
    pub(super) async fn pipe_to(&self, other: &Node) -> (Arc<Connection>, JoinHandle<DropReason>) {
        let (near, far) = duplex(PIPE_BYTES);
        let serving = other.serve(far);
        (self.over(near, other.id).await, serving)
    }

    /// Serves one end of a pipe as an accepted connection.
    pub(super) fn serve(&self, far: DuplexStream) -> JoinHandle<DropReason> {
        let shared = Arc::clone(self.shared());
        let addr: SocketAddr = ANYWHERE.parse().unwrap();
        tokio::spawn(async move {
            let place = shared.register.enter(addr.ip(), &shared.limits).unwrap().0;
            serve_stream(&shared, far, addr, place).await
        })
    }
}

/// Stream of a test, for reading and writing.
pub(super) trait Wire: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Wire for T {}

/// Address and id of a node, as others know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) id: NodeId,
    pub(super) addr: SocketAddr,
}

pub(super) fn question() -> Request {
    Request::Members {
        members: bytes::Bytes::from_static(b"mine"),
    }
}
