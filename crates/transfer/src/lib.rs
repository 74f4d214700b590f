//! Transfer of verified ranges between nodes.
//!
//! [`plan`](p2pfs_fetch::plan) chooses which range to request from which peer next.
//! [`session`](p2pfs_fetch::session) is the fetch machine around it, with the reads, fills, files
//! and holders. Both are pure. [`client`] is the I/O around a session: it sends requests, verifies
//! answers and stores them in the cache. [`batches`] requests many small files at once, before they
//! are read. [`server`] answers the requests of other nodes. This crate knows no paths, mounts or
//! catalogues: a content has a hash and a size, and its holders are passed in from outside.
//!
//! All bytes from other nodes are proven against their hash before this crate gives them to a
//! reader or to the cache.
//!
//! # Path of a cold read of 128 KiB
//!
//! `fuse` asks the kernel for a read-ahead of 4 MiB. A kernel that does not grant it keeps its
//! default of 128 KiB, and then most reads have this size. In this example the file is open at both
//! ends and the connection exists. Each stage of the table runs on one thread from its first step
//! to its last. Stages *1*, *3* and *4* run on the node that reads, stage *2* on the node that
//! serves. No reader waits for stage *4*.
//!
//! | | thread | steps |
//! |---|---|---|
//! | 1 | a thread of the mount | `ReadServer::take_read` → `Handle::read_now` finds that the bytes are not here → `ReadServer::wait_read` puts the request into the table of waiting reads, with its deadline → `ReadServer::begin_read` → `Handle::read` → `OpenVersion::fetch` → `NodeContent::fetch` → [`Fetcher::read`] |
//! | | | `Session::open` returns the cache's file, which has nothing of the range → [`Session::read`](p2pfs_fetch::session::Session::read) → `Plan::demand` |
//! | | | [`Session::actions`](p2pfs_fetch::session::Session::actions) → `Plan::poll_request` chooses the holder: one range, on the urgent lane, marked prompt (`is_prompt`) |
//! | | | `client::FetcherInner::begin` → `ask_at_once` → `PeerNet::request_at_once` encrypts the request and writes it to the socket; the thread takes the next read |
//! | 2 | the server's task of that connection | reads the request → `node::prompt::answer_beside` → [`Server::serve`] → [`Server::answer_at_once`]: the file is open and no other peer waits for its turn (`FairQueue::pass_at_once`) → `Source::encode_at_once` reads, checks and proves → `ReplyTo::send` |
//! | 3 | the asker's task of that connection | reads the answer → `client::FetcherInner::take_prompt_answer` → [`session::verify`](p2pfs_fetch::session::verify) hashes (80 µs) → [`Session::accept`](p2pfs_fetch::session::Session::accept): the bytes are in the window, the demand is ready |
//! | | | `client::FetcherInner::deliver` → `Sources::gather` returns a part of the answer without a copy → `ReadServer::answer_read` writes to `/dev/fuse` |
//! | 4 | a blocking thread, 2 ms later | `client::FetcherInner::store_pending` writes all pending answers together → [`Session::stored`](p2pfs_fetch::session::Session::stored): the window drops the bytes |
//!
//! Requests above 128 KiB and requests without a waiting reader take the long way. The node that
//! reads sends such a request in a task (`client::FetcherInner::ask_range`), as it does if no
//! connection is open. The server works on a blocking thread (`server::ServerInner::make`), as it
//! does if the file is not open. The node that reads then stores the answer on a blocking thread
//! (`client::FetcherInner::take_answer`), and verifies answers above 128 KiB there too.

pub mod batches;
pub mod client;
mod limits;
pub mod net;
mod pace;
pub mod server;
#[cfg(test)]
mod tests;

pub use limits::LIMITS;

/// Target of all trace events about reads, fills and requests, for a filter such as
/// `RUST_LOG=p2pfs::read=trace`.
pub const TRACE_TARGET: &str = "p2pfs::read";

pub use client::{FetchConfig, FetchTicket, Fetcher, Fill, HoldersOf, ReadReply};
pub use pace::{Pace, PassedBytes};
pub use server::{Admits, OnSent, Server, ServerLimits};
