//! A link so slow that a record takes longer to arrive than the limit for a dead connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};
use tokio::sync::watch;
use tokio::time::{Duration, Instant, sleep};

use super::super::tcp_info::{TcpGauge, TcpInfo};
use super::super::*;
use super::harness::{Node, question};
use crate::net::peer::counters::DropReason;
use p2pfs_fetch::plan::PlanConfig;

/// Bytes of each arrival, and the time between two arrivals: 1,000 bytes per second.
const PART_BYTES: usize = 100;
const PART_AFTER: Duration = Duration::from_millis(100);

/// Pipe that knows when bytes last arrived, like the kernel of a socket.
struct Gauged {
    pipe: DuplexStream,
    came: Mutex<Instant>,
}

impl Gauged {
    fn new(pipe: DuplexStream) -> Self {
        let came = Mutex::new(Instant::now());
        Self { pipe, came }
    }
}

impl TcpGauge for Gauged {
    fn read_gauge(&self) -> Option<TcpInfo> {
        Some(TcpInfo {
            acked_ago: Duration::from_hours(1),
            came_ago: self.came.lock().elapsed(),
            ..TcpInfo::default()
        })
    }

    fn mark(&self, _: u8) -> io::Result<()> {
        Ok(())
    }

    fn set_low_water(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Gauged {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.pipe).poll_read(context, buffer);
        if buffer.filled().len() > before {
            *self.came.lock() = Instant::now();
        }
        outcome
    }
}

impl AsyncWrite for Gauged {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

/// Pace at which a link carries bytes to this end.
#[derive(Clone, Copy, Debug)]
enum Pace {
    Free,
    Trickle,
    Stopped,
}

/// Carries bytes in one direction at the current pace.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut pace: watch::Receiver<Pace>,
) {
    let mut bytes = [0; PART_BYTES];
    loop {
        let Ok(length @ 1..) = from.read(&mut bytes).await else {
            return;
        };
        let now = *pace.borrow_and_update();
        match now {
            Pace::Free => {}
            Pace::Trickle => sleep(PART_AFTER).await,
            Pace::Stopped => std::future::pending().await,
        }
        if to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

/// Returns a connection from one node to the other, and the control of its pace from there.
async fn linked(asker: &Node, server: &Node) -> (Arc<connection::Connection>, watch::Sender<Pace>) {
    let (near, proxy_near) = duplex(1 << 20);
    let (proxy_far, far) = duplex(1 << 20);
    let (set, pace) = watch::channel(Pace::Free);
    let (_, free) = watch::channel(Pace::Free);
    server.serve(far);
    let (near_read, near_write) = tokio::io::split(proxy_near);
    let (far_read, far_write) = tokio::io::split(proxy_far);
    tokio::spawn(carry(near_read, far_write, free));
    tokio::spawn(carry(far_read, near_write, pace));
    (asker.over(Gauged::new(near), server.id).await, set)
}

/// Returns the result of a request whose answer of `bytes` arrives at a trickle, until the pace in
/// `then` is set after a while. Also returns the times of the progress reports to its asker.
async fn asked(
    bytes: usize,
    then: Option<(Duration, Pace)>,
) -> (Result<Response, NetError>, Vec<Instant>) {
    let told: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noting = Arc::clone(&told);
    let progress = Progress {
        tell: Arc::new(move |_, _, _| noting.lock().push(Instant::now())),
        node: NodeId::new([1; 32]),
        key: 7,
    };
    let (asker, mut server) = (Node::new(1), Node::new(1));
    let (connection, pace) = linked(&asker, &server).await;
    let answering = async {
        let incoming = server.requests.recv().await.unwrap();
        pace.send_replace(Pace::Trickle);
        let proof = vec![7; bytes].into();
        incoming.reply.send(Response::Data { proof });
        if let Some((after, next)) = then {
            sleep(after).await;
            pace.send_replace(next);
        }
        std::future::pending::<()>().await
    };
    let question = question();
    let answer = tokio::select! {
        answer = connection.ask(&question, Some(progress), None) => answer,
        () = answering => unreachable!(),
    };
    let told = told.lock().clone();
    (answer, told)
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_one_kilobyte_a_second_is_not_dead() {
    let start = Instant::now();
    let (answer, told) = asked(64 << 10, None).await;
    assert!(matches!(answer, Ok(Response::Data { proof }) if proof.len() == 64 << 10));
    // longer than the limit for a connection that brings nothing
    assert!(start.elapsed() > PeerLimits::default().times.unanswered_after * 2);
    let times = [&[start], &told[..], &[Instant::now()]].concat();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
    // the plan takes a peer for dead if it hears nothing of it for this time
    let limit = PlanConfig::default().request_limit;
    assert!(longest.unwrap() < limit, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stops_in_mid_record_is_dead() {
    let after = Duration::from_secs(5);
    let start = Instant::now();
    let lost = NetError::Lost {
        reason: DropReason::Silent,
    };
    let (answer, _) = asked(64 << 10, Some((after, Pace::Stopped))).await;
    assert_eq!(answer, Err(lost));
    assert!(start.elapsed() < after * 2);
}
