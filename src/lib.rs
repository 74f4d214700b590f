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
//! and mounts a FUSE filesystem that lists what every live node shares. This page is the map of the
//! code: what the parts are, who may know whom, and what always holds.
//!
//! ```text
//!   p2pfs status | get | why …         /dev/fuse            a program that embeds a node
//!                ┊                         ┊                               ┊
//!       main ─▶ cli ─▶ daemon ─────────▶ fuse ─▶ mounting ◀─ broker        ┊
//!                        │                 │                               ┊
//!                        ▼                 │                               ┊
//!       ┌────────────── node ◀┄┄┄┄┄┄┄┄┄┄┄┄ │ ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┘
//!       │                │└───────────────┐│
//!       │                ▼                ▼▼
//!       │      pure: cluster, legacy,     fs ─▶ catalogue
//!       │            mesh, catalogue, transfer::session
//!       ▼
//!      transfer ─▶ cache, share, net       net: gossip over UDP, TLS over TCP
//!                                          share: scans, watches, hashes
//! ```
//!
//! An arrow `─▶` is an import: who stands at its tail knows who stands at its point; `node` knows
//! all that is drawn below it. Of `daemon`, `cli` knows `control` and `config` alone: `src/main.rs`
//! hands it what runs a daemon (`daemon::run`) and a broker. A dotted line is a talk over a socket,
//! a device or a call. The drawing leaves out the small modules at the top of the table below, down
//! to `wire` (`IMPORTS` in `tests/text/tidy.rs` has who uses which); the call of `fuse::mounter` to
//! the broker, where the daemon may not mount; and the traits that `fs`, which knows neither a node
//! nor the kernel, declares: `node` implements `Content`, and `fuse` `Invalidator` and
//! `BackingFiles`.
//!
//! # Modules
//!
//! Who may import whom is a table, `IMPORTS` in `tests/text/tidy.rs`, which holds the tree to it.
//!
//! | module | what is in it |
//! |---|---|
//! | [`id`] [`path`] [`extent`] [`digest`] | who, what it is called, which bytes, and that they are the right ones |
//! | `bucket` | how much of something may happen in a time |
//! | `least` | the least of what was measured lately |
//! | `files` | files that are their owner's alone, locked, or opened anew by their descriptor |
//! | `offences` | who broke a protocol's rules, how often and how last |
//! | [`trust`] | keys, secrets, invitations, proofs of membership |
//! | [`wire`] | every format that crosses a network, and how large a frame, a datagram and what is in them may be |
//! | [`cluster`] | membership: who is alive, and what gossip carries |
//! | [`catalogue`] | what every node says it has, merged into one namespace |
//! | [`legacy`] | the legacy peers' discovery protocol: members, answers, questions |
//! | [`mesh`] | the legacy peers' mesh protocol: handshake, peers, talk, pushed files |
//! | [`share`] | the folders that this node offers: scanned, watched, hashed |
//! | [`cache`] | verified bytes of others, on the local disk |
//! | [`net`] | sockets, TLS, connections, mDNS |
//! | [`transfer`] | fetching, as one state machine ([`transfer::session`]) over one choice of which range from whom ([`transfer::plan`]), the I/O around it, many small files at once ([`transfer::batches`]), and serving |
//! | [`fs`] | inodes, handles, attributes, the one errno table; which small files a program will open next |
//! | [`fuse`] | the device, the protocol, the kernel's caches |
//! | [`mounting`] | the calls that need privilege: what a mount point must be like, mount(2), the way out of a dead mount |
//! | [`broker`] | the small process that makes these calls for a daemon without the right, and keeps its mount |
//! | [`node`] | the event loop that owns the state machines; what the filesystem reads |
//! | [`daemon`] | the process: configuration, control socket, systemd |
//! | [`cli`] | the commands |
//!
//! Pure are `id`, `bucket`, `least`, `offences`, `path`, `extent`, `digest`, `wire`, `cluster`,
//! `catalogue`, `legacy`, `mesh`, `transfer::plan` and `transfer::session` (`tests/text/tidy.rs`
//! holds them to it). A pure module names no socket, file, runtime or clock: it is handed messages,
//! answers and the time, and gives what to send, what happened and when to wake it. Its randomness
//! is seeded, so a cluster of them runs in one test, in virtual time, from one number:
//! `tests/simulation` has `cluster`, `nodes` (whole nodes), `swarm` (many that fetch one file) and
//! `kernel_caches`.
//!
//! A program enters `node`, `path`, `id`, `digest` and `trust`; the types of other modules that it
//! meets there are in [`node::door`] too. The modules behind promise nothing to anybody outside and
//! are hidden from this documentation, though not private, because the tests, the benchmarks and
//! the program itself enter them. `RUSTDOCFLAGS="--cfg all_modules" cargo doc` shows all of them.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | node, peer | a process that takes part; a peer is another one, a *legacy peer* a program of one of the two predecessors |
//! | cluster, member | the nodes that were let in, by a token or by a secret file; one of them |
//! | plane | one protocol and who speaks it: the *native* one, the *legacy* text protocol (UDP questions, plain TCP; [`legacy`]), the *mesh* (chat and pushed files; [`mesh`]) |
//! | generation | one life of a node in the membership: a restart has a higher one |
//! | epoch | of a cluster: the time for which one secret holds (`trust`); of a log: its life, higher after its author lost it (`catalogue`) |
//! | log, head | the list of what one node shares; the short signed statement of its length and its digest, which gossip carries |
//! | author | of a log, an entry or a version: the node that says it, of what it shares itself |
//! | version | one content under one path; of several, one wins the name |
//! | owner of a path | the node whose files alone are listed at and below it (`p2pfs own`) |
//! | readers | of a share: the nodes that it is for, where it is not for all; elsewhere who reads, a program |
//! | holder, offer | who has bytes of a content; its word, in answer to a question, about which |
//! | demand, fill | a range that a reader waits for; a whole file that is brought into the cache for nobody's read (pin, prefetch) |
//! | pin | that a file is to be brought into the cache, and stays there |
//! | hedge | the same request to another holder, because the first one is late |
//! | fellow | another node that fetches the same content at the same time, and can give its parts |
//! | swarm, stripe | many nodes that fetch one file at once; the part of it that one of them asks the full holders for, and gives the others (`transfer::plan::swarm`) |
//! | grain | the size that ranges are rounded to: a *page* of 4 KiB in the cache, a *chunk* of 64 KiB between nodes |
//! | lane | one of the two connections to a node: the *urgent* one is for what readers wait for, the *bulk* one for the rest |
//! | window | what was verified and is kept in memory: until the cache has it, or where that has no room, until readers have it |
//! | seed | an address that is in the settings, where a node looks for the others; in a test, the number that all its chance comes from |
//! | stranger | who has proven nothing: a connection before its proof, an address that is no member's, a legacy peer that is none of ours |
//! | shunned | asked no more, because it sent wrong bytes |
//! | tombstone, floor | in a log: that a name was removed; up to where its author forgot what came before. The *floor* of the cache is what it leaves free of its disk |
//! | inbox | the folder for files that others send to this node |
//! | mask | the permissions that nobody has in the mount, as umask(2) takes them away |
//! | passthrough | that the kernel reads a local file by itself, without the daemon |
//! | outboard | the tree of hashes of a file, kept beside its bytes, from which a range is proven |
//! | slot, turn, unit | in `share`: the place of a name in the tree; the place of a change in the order in which changes are told; several that are told together |
//!
//! # What always holds
//!
//! | | invariant | held by |
//! |---|---|---|
//! | 1 | no byte that another native node sent reaches a reader or the cache of verified bytes before it is proven; own files are read as they are on the disk; what legacy peers sent cannot be proven, is kept apart and marked | `digest::proof::tests`, `tests/simulation/nodes`, `tests/simulation/swarm` and `transfer::tests`, with holders that lie; `tests/daemons/legacy` |
//! | 2 | a page is marked present only after its bytes are written | `cache` crash tests, a cut at every write |
//! | 3 | no metadata call waits for the network, but GETATTR and OPEN of a name that only a legacy peer may have, for a limited time | `tests/mount/waits.rs`, `tests/daemons/legacy/mount.rs` |
//! | 4 | every wait of a program for bytes has a deadline. Each byte of the file that comes begins it anew, without limit; so does a holder at work (it brings other readers here bytes, says that it is busy, or answers in a handshake), but for six times as long at most. The wait ends in data or a documented errno; a fatal signal ends it at once (which waits a caught one ends: p2pfs(7), Signals) | `tests/mount`, `tests/daemons/nodes` |
//! | 5 | every queue, frame, table and list from outside has a named limit | constants beside each; hostile-byte tests of every decoder |
//! | 6 | nodes that see the same members show the same namespace, which is the plain merge of their logs (but for shares with `readers`, versions dated ahead of their clocks, and what one was told to forget) | `catalogue` tests, `tests/simulation/nodes`, `tests/daemons/model` |
//! | 7 | a remote name becomes a local path only as a [`path::SharedPath`], local opens stay beneath their folder, and no link leads out of the mount | `path`, `share` and `wire::native::link` tests |
//! | 8 | one error enum a subject; errno is chosen in one table | `fs::error` |
//! | 9 | no std lock is held across an await; library code logs at DEBUG at most | review, `tests/text/tidy.rs` |
//! | 10 | a test waits for an event or runs in virtual time | `tests/text/tidy.rs` |
//!
//! # What was found out about the system
//!
//! Each was a bug first.
//!
//! | fact | so | where |
//! |---|---|---|
//! | an answer to FUSE_INIT sets the read-ahead to the kernel's own | ours is set after the handshake | `fuse::mount` |
//! | with `FUSE_ASYNC_DIO` an O_DIRECT read is deaf to signals | it is not asked for | `fuse::session` |
//! | the number of a FUSE connection is used again at once | its abort file is opened while the mount stands | `mounting::connection` |
//! | `RestrictSUIDSGID=` of systemd makes openat2(2) fail with ENOSYS | the daemon's unit does without it; the broker's has it | `packaging/p2pfs.service` |
//! | a handle of a directory costs two calls for each listing that the kernel has already | OPENDIR is answered ENOSYS once, and a cookie means the same without a handle | `fuse::session`, `fs::listing` |
//! | a notification that crosses an answer drops nothing | it is sent again | `fuse::notify::again` |
//! | somebody may write to the cache's files while no daemon runs | a clean stop vouches for a file only with its change time, which nobody can set back | `cache::layout` |
//! | while a program waits at an automount point, whoever is not of systemd's process group waits there too, in mount(2) as well | the broker mounts beside it | `mounting::place` |
//! | on a busy machine the scheduler lets threads that encrypt and hash wait for seconds | the event loop, whose silence the others take for its death, has a thread of its own | `node::own_thread` |
//! | to touch memory that a hypervisor took from an idle guest costs 2 s of system time a GiB, ten times what a copy into a page costs | large files are written past the kernel's pages | `cache::direct` |
//! | to hand a piece to a mount or a disk, the kernel looks up and counts each of its pages | pieces have places in huge pages | `daemon::pieces` |
//! | ext4 lets one thread alone write into a hole of a file, and finds space anew for each piece | the space for what a stream brings next is taken ahead | `cache::prealloc` |
//! | FAT, exFAT and what FUSE brings count their files anew at each mount | a hash that is remembered by such a number counts for the name alone that is listed with it | `share::observe` |
//! | where letters count for the same, a look also finds by its old name what was renamed | a name that a directory does not list any more is nothing, whatever is found by it | `share::walk` |
//! | what happens to the root of a mount is not told to the directory that it lies in | what a directory tells of itself is looked at too | `share::scanner` |
//! | Landlock looks past a mount to what is around it, never at what it covers | a rule for a share would not hold for a disk mounted there later, so there is none | `daemon::confine` |
//!
//! # Where to change what
//!
//! | to change | go to |
//! |---|---|
//! | which version of a path wins, and what the others are called | `catalogue::rules`, which has the ranking, and says in their order the rules before it and where they are; `why` says them in words in `daemon::answers::names`. A rule has a variant of `Rule` in `catalogue::versions` and its sentence in p2pfs(7), Conflicts; the ranking is repeated in the models of the tests, `src/catalogue/tests/model.rs`, `tests/simulation/nodes/model.rs` and `tests/daemons/model/namespace.rs` |
//! | who owns a path | `trust::ledger` takes the word of a member that may invite, `catalogue::owners` holds the merge to it |
//! | how long a read waits by default | `READ_DEADLINE` in [`node::door::defaults`]; it is said in p2pfs(7), ERRORS, p2pfs.toml(5) and `packaging/p2pfs.toml` too |
//! | how a wait moves on and ends | `node::content` sets its deadline, `transfer::plan::answers` holds to it (what is progress, when it is given up; `TURN_PATIENCE` in `transfer::plan`), `transfer::batches` where many small files are asked for at once; what nobody answers, `fuse::device` does (in `keep_deadlines`), by deadlines that `daemon::folder` (`options`) derives from the read deadline |
//! | what an interrupt does to a wait | `fuse::interrupts` (what goes on waiting), `fuse::hands` (reads that are not in the table yet), `fuse::signals` (whether the signal is fatal), `SIGNAL_GRACE` in `fuse::table`; p2pfs(7), Signals |
//! | how a mount outlives its daemon | `broker::kept_mount` keeps it, for `ALONE_MAX`; `fuse::mount` (`hand_over`) leaves it there; `fuse::greeting` (`VERSION`), `fuse::takeover` and `fs::inherited` take it up; the sockets: `daemon::fd_store`; `tests/system/restarts.rs` |
//! | another default of [`node::door::defaults`] | there: the builder and the settings' types in `daemon::config::settings` begin from it |
//! | any other default | beside what it sets: `share::config` (rest, rescan, hashing), `cluster::config` (gossip), `transfer::plan::PlanConfig`, `fuse::MountOptions` (read-ahead, masks) |
//! | how far the kernel reads ahead | `read_ahead_bytes` in `fuse::mount`; how far p2pfs fetches ahead of a reader: `transfer::plan::streams`, and how that shrinks where many read: `transfer::plan::ahead` |
//! | which holder is asked first | `transfer::plan::schedule` (`choose`, `candidates`), by the figure in `transfer::plan::peer` (`score`); in a swarm, `transfer::plan::swarm` |
//! | when a slow holder is hedged, and how often | `transfer::plan::hedge`; the bounds of the wait before it: `transfer::plan::PlanConfig` |
//! | what the kernel reads by itself (passthrough) | `fuse::passthrough` (whether we may), `fs::files` and `fs::modes` (each open) |
//! | what goes to the cache's disk past the kernel's pages, and what the next reads of it come from | `cache::direct` (which writes), `cache::recent` (who reads a moment later), `fs::kept` (the second use), `cache::warming` (the third) |
//! | how much disk space is taken before its bytes come | `cache::prealloc` (`next_step`), `cache::space` (which takes it) |
//! | which asker this node serves first, and how fast | `transfer::server::fair_queue`; limits in bytes a second, both ways: `transfer::pace` |
//! | what a byte costs between socket and frame | `net::peer::records` and `net::peer::seal`: rustls makes the handshake and hands over its keys (`keys_of` in `net::peer::tls`), since it copies what it seals once and what it opens three times; when a connection's keys are worn, there |
//! | a format between nodes, and its version | `wire::native`; `VERSION` in `wire::native::udp`, the ALPN in `net::peer::tls` |
//! | which port | `DEFAULT_PORT` in `daemon::config`; a program that embeds a node takes any free one, unless it says `listen`; `net::port` takes UDP and TCP at once |
//! | when a changed file is read | `share::watch` (what inotify tells), `share::checks` (when it is looked at), `share::config` (how long it must rest) |
//! | what is evicted from the cache, and when | `cache::index` (`reserve`: once the budget or the floor would be broken; `take_victim`: what was used least recently goes first, never what is pinned or open), `cache::opening` (what counts as a use), `cache::core` (`evict`; the order after a restart, `adopt`), `cache::budget` (what a file costs) |
//! | how long the files of a node that is gone stay listed | `cluster::config` decides when it is gone ([`catalogue`] then lists what caches hold whole); how long after a clean stop: `AWAY_GRACE` there |
//! | how long removed names, and the lists of nodes that are gone, are remembered | `TOMBSTONES_MIN` and `TOMBSTONE_RATIO` in [`catalogue`]; `FORGET_AFTER_SECONDS` in `node::store`; how `p2pfs forget` lasts: `catalogue::forgotten` |
//! | how a node is put out and kept out | `trust::ledger` says who is a member, `cluster::membership` and `net::peer` hold to it, `node::handle` begins it |
//! | what a legacy peer may get | `node::legacy::offered`, served by `node::legacy::serve`; how often it may ask, `legacy::rate` |
//! | what the broker may ask of the kernel | `broker::filter` |
//! | what a stranger can make this node allocate | of a connection that has proven nothing, `PeerLimits` in `net::peer::limits` and `GREETING_MAX_BYTES` in `wire::native::tcp::frame`; of an address that sends datagrams, `cluster::config`; of multicast DNS, `net::lan`. All limits, by name and with their sum: `man/p2pfs.8`, LIMITS, second paragraph (`tests/text/limits.rs` holds the list to the source) |
//! | the errno that a program such as cp(1) gets, which is all it says of an error | `fs::error`, the one table; p2pfs(7), ERRORS |
//! | the text of an error of a setting | `daemon::config::error`; an unknown key is found in `daemon::config::layer`, in serde's words; what cannot be together, in `daemon::config::check` |
//! | … of the mount | `fuse::mount` (`MountError`) and `mounting::MountingError` |
//! | … of a read | `fs::FsError`; which of them a failed transfer becomes, `read_failure` in `node::content`; what failed there, `transfer::TransferError` with `transfer::plan::PlanError`, and `cache::CacheError` |
//! | … of the network | `net::NetError`, and `net::legacy::LegacyError` for legacy peers; what `doctor` says of it, `daemon::answers::network` |
//! | … of a node, a share, an invitation | [`node::NodeError`] and [`node::FileError`]; `share::ShareError`; [`trust::TrustError`] |
//! | … of a share that cannot be added | `share::ShareError`; by a command also `daemon::answers::shares` and `cli::share` (`folder`); one of the configuration, `daemon::sharing` |
//! | … of a command | in `daemon::answers` the file of its subject (`content` for `get`, `names` for a path that is not listed, `trust` for a member that is not known); `cli::error` where the daemon does not answer |
//! | a command | its variant and file in `cli`, its call in `daemon::control::call` and `org.p2pfs.Control.varlink`, its answer in `daemon::answers`, its text in `man/p2pfs.1`; `CONTRIBUTING.md` has the steps |
//! | a field of `--json` | its type in `daemon::control` (`types`, or the file of its subject), `org.p2pfs.Control.varlink`, `man/p2pfs.1`; what fills it, the file of `daemon::answers` that has its subject (of a peer, the varlink's `Peer`: `PeerInfo` in `status`, `legacy` and `giving`) |
//! | what `p2pfs events` tells | `node::events` (what happens), `daemon::answers::news` (as it is told), `EventKind` in `daemon::control::provenance` (as JSON), `cli::events` (as a line); the journal's lines, `daemon::journal` |
//! | what `p2pfs status` prints | `cli::status`; what it knows, `daemon::answers::status` |
//! | a setting | its field in `daemon::config::settings` (`[mesh]` and `[inbox]`: `daemon::config::giving`), from whose type its name, variable and kind follow; what it does, `daemon::node_config`; whether a reload applies it, `daemon::config::reload`; `CONTRIBUTING.md` has the steps, and the tests |
//!
//! # Where to begin reading
//!
//! [`node::door`] is what a program can ask of a node; [`node::Machine`] is its
//! membership and catalogue without sockets; [`transfer`] the way of a read, function by function;
//! [`transfer::session`] who waits for what, and [`transfer::plan`] whom to ask; [`share`] the way
//! of a new file, function by function; [`catalogue`] how the namespace comes about; [`fuse`] why
//! the mount never hangs.

#[cfg(feature = "fuse")]
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod broker;
mod bucket;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod cache;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod catalogue;
#[cfg(feature = "cli")]
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod cli;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod cluster;
#[cfg(feature = "cli")]
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod daemon;
pub mod digest;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod extent;
mod files;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod fs;
#[cfg(feature = "fuse")]
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod fuse;
pub mod id;
mod least;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod legacy;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod mesh;
#[cfg(feature = "fuse")]
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod mounting;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod net;
pub mod node;
mod offences;
pub mod path;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod share;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod transfer;
pub mod trust;
#[cfg_attr(not(all_modules), doc(hidden))]
pub mod wire;

pub use node::Node;
