//! p2pfs: the files that a group of machines share, as one folder on each of them.
//!
//! A program that embeds a node begins one, and asks it for files by their names:
//!
//! ```no_run
//! use p2pfs::{Node, path::SharedPath};
//! use tokio::io::AsyncReadExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::builder("reader".parse()?, "/var/lib/reader")
//!     .secret_file("/etc/p2pfs/secret")
//!     .seed("192.0.2.7:1378".parse()?)
//!     .share("/srv/photos")
//!     .start()
//!     .await?;
//! let path = SharedPath::new(&b"docs/resume.pdf"[..])?;
//! node.wait_for(&path).await;
//! let mut text = Vec::new();
//! node.open(&path).await?.read_to_end(&mut text).await?;
//! # Ok(()) }
//! ```
//!
//! [`node::door`] has the rest of what it can ask for; `examples/` has three whole programs. Such a
//! program does without the mount and the commands: `default-features = false` (the features are
//! `fuse`, for the mount, and `cli`, for the daemon and the commands).
//!
//! A daemon keeps a cluster together by gossip over UDP, moves verified ranges of files over TLS,
//! and mounts a FUSE filesystem that lists what every live node shares. This page is the house:
//! what the parts are, who may know whom, and what always holds.
//!
//! ```text
//!  shells, file managers ── kernel ── /dev/fuse ─┐              ┌─ p2pfs status | get | why …
//!                                                ▼              ▼ (Varlink on a Unix socket)
//!                                       fuse ─▶ fs ◀──────── daemon (config, control, systemd)
//!                                               │ traits Content, Invalidator, BackingFiles
//!                                               ▼
//!                  ┌──────────────────────── node ────────────────────────┐
//!                  │ owns the machines below, feeds them events and time  │
//!                  └──┬──────────┬───────────────┬───────────────┬────────┘
//!        pure ▶    cluster   catalogue    transfer::session      │
//!                     │          ▲               │               │
//!         I/O ▶  net::gossip   share      transfer::client ── cache
//!                   (UDP)   (scan, watch, transfer::batches
//!                             hash)       transfer::server
//!                                           net::peer (TLS over TCP)
//! ```
//!
//! # Rooms
//!
//! | module | what lives there |
//! |---|---|
//! | [`id`] [`path`] [`extent`] [`digest`] | who, what it is called, which bytes, and that they are the right ones |
//! | `bucket` | how much of something may happen in a time |
//! | `files` | files that are their owner's alone, locked, or opened anew by their descriptor |
//! | `offences` | who broke a protocol's rules, how often and how last |
//! | [`trust`] | keys, secrets, invitations, proofs of membership |
//! | [`wire`] | every format that crosses a network, with every size limit |
//! | [`cluster`] | membership: who is alive, and what gossip carries; pure |
//! | [`catalogue`] | what every node says it has, merged into one namespace; pure |
//! | [`legacy`] | the legacy peers' discovery protocol: members, answers, questions; pure |
//! | [`mesh`] | the legacy peers' mesh protocol: handshake, peers, talk, pushed files; pure |
//! | [`share`] | the folders that this node offers: scanned, watched, hashed |
//! | [`cache`] | verified bytes of others, on the local disk |
//! | [`net`] | sockets, TLS, connections, mDNS |
//! | [`transfer`] | fetching, as one machine ([`transfer::session`], pure) over one choice of which range from whom ([`transfer::plan`], pure), the I/O around it, many small files at once ([`transfer::batches`]), and serving |
//! | [`fs`] | inodes, handles, attributes, the one errno table; which small files a program will open next |
//! | [`fuse`] | the device, the protocol, the kernel's caches |
//! | [`mounting`] | the calls that need privilege: what a mount point must be like, mount(2), the way out of a dead mount |
//! | [`broker`] | the small process that makes these calls for a daemon without the right, and keeps its mount |
//! | [`node`] | the event loop that owns the machines; what the filesystem reads |
//! | [`daemon`] | the process: configuration, control socket, systemd |
//! | [`cli`] | the commands |
//!
//! Who may import whom is a table in `tests/text/tidy.rs`, which holds the tree to it. A pure room
//! names no socket, file, runtime or clock: it is handed messages, answers and the time, and gives
//! what to send, what happened and when to wake it. Its randomness is seeded, so a cluster of them
//! runs in one test, in virtual time, from one number.
//!
//! A program enters `node`, `path`, `id`, `digest` and `trust`; the types of other rooms that it
//! meets there are in [`node::door`] too. The rooms behind promise nothing to anybody outside and
//! are hidden from this documentation, though not private, because the tests, the benchmarks and
//! the program itself enter them. `RUSTDOCFLAGS="--cfg rooms" cargo doc` shows the whole house.
//!
//! # What always holds
//!
//! | | invariant | held by |
//! |---|---|---|
//! | 1 | no byte reaches a reader or the cache unverified | `digest::proof::tests`, `tests/simulation/nodes` and `transfer` with lying holders |
//! | 2 | a page is marked present only after its bytes are written | `cache` crash tests, a cut at every write |
//! | 3 | no metadata call waits for the network, but GETATTR and OPEN of a name that only a legacy peer may have, for a limited time | `tests/mount/waits.rs`, `tests/daemons/legacy/mount.rs` |
//! | 4 | every wait of a program has a deadline, ends on a signal, and ends in data or a documented errno | `tests/mount`, `tests/daemons/nodes` |
//! | 5 | every queue, frame, table and list from outside has a named limit | constants beside each; hostile-byte tests of every decoder |
//! | 6 | nodes that see the same members show the same namespace, which is the plain merge of their logs | `catalogue` tests, `tests/simulation/nodes`, `tests/daemons/model` |
//! | 7 | a remote name becomes a local path only as a [`path::SharedPath`], and local opens stay beneath their folder | `path` and `share` tests |
//! | 8 | one error enum a layer; errno is chosen in one table | `fs::error` |
//! | 9 | no std lock is held across an await; library code logs at DEBUG at most | review, `tests/text/tidy.rs` |
//! | 10 | a test waits for an event or runs in virtual time | `tests/text/tidy.rs` |
//!
//! # What was found out about the kernel
//!
//! Each was a bug first. An INIT resets the read-ahead, so it is set after the greeting.
//! `FUSE_ASYNC_DIO` makes O_DIRECT reads deaf to signals, so it is not asked for. A connection's
//! number is used again at once, so its abort file is opened while the mount stands.
//! `RestrictSUIDSGID=` of systemd makes openat2(2) fail with ENOSYS, so the unit has none.
//! A handle of a directory costs two calls for each listing that the kernel has already, so OPENDIR
//! is answered ENOSYS once, and a cookie means the same without a handle. A notification that
//! crosses an answer drops nothing, so it is sent again. A clean stop of the cache vouches for no
//! byte that somebody else wrote since: the change time of a file tells, which nobody can set back.
//! While a program waits at an automount point, whoever is not of systemd's process group waits
//! there too, mount(2) included, so the broker mounts beside it. Landlock looks past a mount to
//! what is around it, never at what it covers, so a rule for a share would not hold for a disk
//! mounted there later.
//!
//! # Where what is changed
//!
//! | to change | go to |
//! |---|---|
//! | which version of a path wins, and what the others are called | `catalogue::rules`; `why` says it in words in `daemon::answers::names` |
//! | how long a read waits, and every other default | [`node::door::defaults`]; the settings' types in `daemon::config::settings` begin from it |
//! | how a wait moves on and ends | [`transfer::session`], `transfer::session::window` for many at once |
//! | what a stranger can make this node allocate | the constant of that name: p2pfs(8) lists every one with its module, and `tests/text/limits.rs` holds the list to the source |
//! | the errno that a program gets | `fs::error`, the one table |
//! | the text of an error | the enum of its layer: `daemon::config::error` for a setting, [`node::NodeError`] and [`node::FileError`] for a node, `daemon::answers` for what a command says and advises |
//! | a command | its file in `cli`, its call in `daemon::control::call`, its answer in `daemon::answers` |
//! | a setting | its field in `daemon::config::settings`: its name, variable and kind follow from the type |
//!
//! # Where to begin reading
//!
//! [`node::door`] is what a program can ask of a node; [`node::Machine`] shows what a node does
//! without its sockets; [`transfer`] the way of a read, function by function;
//! [`transfer::session`] who waits for what, and [`transfer::plan`] whom to ask; [`catalogue`] how
//! the namespace comes about; [`fuse`] why the mount never hangs.

#[cfg(feature = "fuse")]
#[cfg_attr(not(rooms), doc(hidden))]
pub mod broker;
mod bucket;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod cache;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod catalogue;
#[cfg(feature = "cli")]
#[cfg_attr(not(rooms), doc(hidden))]
pub mod cli;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod cluster;
#[cfg(feature = "cli")]
#[cfg_attr(not(rooms), doc(hidden))]
pub mod daemon;
pub mod digest;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod extent;
mod files;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod fs;
#[cfg(feature = "fuse")]
#[cfg_attr(not(rooms), doc(hidden))]
pub mod fuse;
pub mod id;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod legacy;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod mesh;
#[cfg(feature = "fuse")]
#[cfg_attr(not(rooms), doc(hidden))]
pub mod mounting;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod net;
pub mod node;
mod offences;
pub mod path;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod share;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod transfer;
pub mod trust;
#[cfg_attr(not(rooms), doc(hidden))]
pub mod wire;

pub use node::Node;
