//! Moving verified ranges between nodes.
//!
//! [`plan`](p2pfs_fetch::plan) decides which range to ask of which peer next; [`session`](p2pfs_fetch::session) is the fetch machine around
//! it, with the reads, fills, files and holders; both are pure. [`client`] is the I/O around a
//! session: it sends, verifies what comes and keeps it in the cache. [`batches`] asks for many
//! small files at once, before they are read. [`server`] answers what others ask of us. Nothing
//! here knows a path, a mount or a catalogue: content has a hash and a size, and who holds it is
//! told from outside.
//!
//! No byte leaves this module for a reader or for the cache that was not proven against its hash.
//!
//! # The way of a cold read of 128 KiB
//!
//! 128 KiB is how far the kernel reads ahead where it does not let us say more (`fuse` asks for
//! 4 MiB), and so the size of most reads there. This is one of a file that is open at both ends,
//! over a connection that is there. Four threads take part, each once, and none hands its work to
//! another in between: *1* and *3* are the asker's, *2* the server's; what is stored in *4* nobody
//! waits for.
//!
//! | | on | what happens |
//! |---|---|---|
//! | 1 | a thread of the mount | `Device::take_read` → `Filesystem::read_now` finds that the bytes are not here → `Device::wait_read` puts the request into the table of those that wait, with its deadline → `Device::begin_read` → `Filesystem::read` → `OpenVersion::fetch` → `NodeContent::fetch` → [`Fetcher::read`] |
//! | | | `Session::open` gives the cache's file, which has nothing of the range → [`Session::read`](p2pfs_fetch::session::Session::read) → `Plan::demand` |
//! | | | [`Session::actions`](p2pfs_fetch::session::Session::actions) → `Plan::poll_request` chooses the holder: one range, on the urgent lane, for the short way (`is_prompt`) |
//! | | | `client::Inner::begin` → `ask_at_once` → `PeerNet::request_at_once` encrypts the question and writes it to the socket; the thread takes the next read |
//! | 2 | the server's task of that connection | reads the question → `node::prompt::answer_beside` → [`Server::serve`] → [`Server::answer_at_once`]: the file is open, it is nobody else's turn (`FairQueue::pass_at_once`) → `Source::encode_at_once` reads, checks and proves → `ReplyTo::send` |
//! | 3 | the asker's task of that connection | reads the answer → `client::Inner::take_prompt_answer` → [`session::verify`](p2pfs_fetch::session::verify) hashes (80 µs) → [`Session::accept`](p2pfs_fetch::session::Session::accept): the bytes are in the window, the demand is ready |
//! | | | `client::Inner::deliver` → `Sources::gather` gives a part of the answer, not copied → `Device::answer_read` writes to `/dev/fuse` |
//! | 4 | a blocking thread, 2 ms later | `client::Inner::store_pending` writes what came meanwhile in one go → [`Session::stored`](p2pfs_fetch::session::Session::stored): the window lets go of it |
//!
//! What is larger, what nobody waits for yet, and the first of a file or of a connection take the
//! long way: the question is a task (`client::Inner::ask_range`), the server works on a blocking
//! thread (`server::Inner::make`), and on one the asker stores (`client::Inner::take_answer`), and
//! verifies there what is larger than 128 KiB.

pub mod batches;
pub mod client;
mod limits;
pub mod net;
mod pace;
pub mod server;
#[cfg(test)]
mod tests;

pub use limits::LIMITS;

pub use client::{FetchConfig, FetchTicket, Fetcher, Fill, HoldersOf, ReadReply};
pub use pace::Pace;
pub use server::{Admits, OnSent, Server, ServerLimits};
