//! Kernel side of a mount: the device that owns /dev/fuse, the session that implements the protocol
//! behind it, and the cache invalidation.
//!
//! The daemon uses [`Mount`]. [`ServedMount`] serves one mount, given its descriptor, on its own
//! threads, and ends when the mount is gone. Neither makes policy: `fs` decides which names and
//! bytes exist and which errno an error has. `mounting` implements mounting and unmounting, and
//! `mounter` chooses the means.
//!
//! # Traps
//!
//! Most of these traps can hang a mount. The named test hangs or fails without the cure.
//!
//! | trap | cure | test |
//! |---|---|---|
//! | an open waits, deaf to SIGKILL, for pages that other readers are reading | `FOPEN_KEEP_CACHE`, wherever the kernel keeps pages | `tests/mount/waits.rs open_and_close_of_a_file_with_reads_under_way_never_wait` |
//! | a notification takes locks that a request in flight holds | a separate thread without locks | `tests/mount/traps.rs notifications_and_requests_never_wait_for_each_other` |
//! | a daemon that waits for the kernel in a notification cannot end, also by SIGKILL, and the next one, which would answer the request in the way, does not start | a thread of the mount broker sends the notifications | `broker::notifier`, `notifications_are_passed_and_answers_are_refused` |
//! | a notification for the pages of a file waits for a stuck reader | new bytes are a new inode; for an old inode only attributes are dropped | `tests/mount/traps.rs a_change_of_a_file_with_a_blocked_reader_is_notified` |
//! | a dozen read-aheads of an unreachable file starve every other file | `max_background` in the thousands | `tests/mount/waits.rs many_dead_read_aheads_do_not_starve_another_file` |
//! | a killed reader leaves its read-aheads in flight | each has its own deadline | `tests/mount/traps.rs requests_of_a_killed_reader_end_by_their_deadline` |
//! | each close, and so each exec, sends a FLUSH | ENOSYS, once | `tests/mount/traps.rs closing_sends_no_request`, `tests/mount/traps.rs a_process_with_files_open_on_its_own_mount_can_start_others` |
//! | a wait inside LOOKUP blocks its directory | a provisional inode at once; GETATTR and OPEN wait | `tests/daemons`, `a_lookup_delays_no_other_request` |
//! | thousands of lookups that wait for a foreign peer fill the queue of the threads that pass them on | the thread that takes a lookup begins it; its answer needs no queue | `tests/mount/traps.rs thousands_of_waiting_lookups_of_one_user_delay_no_others` |
//! | a cached listing hides a new name | the listing is invalidated together with the name | `tests/mount/changes.rs a_new_name_appears_in_a_cached_listing_and_a_removed_one_disappears` |
//! | a request whose interrupt is refused once can never be interrupted again | the device answers FUSE_INTERRUPT | `tests/mount/waits.rs an_interrupted_direct_read_is_gone_at_once`, `tests/daemons/nodes/waits.rs readers_of_every_kind_end_at_once_on_ctrl_c` |
//! | a read at a stalled disk ignores its interrupt, and a refused interrupt is sent again at once | slow inline work moves into the table; no interrupt is refused | `tests/mount/traps.rs hung_reads_end_by_a_signal_or_the_deadline_and_delay_no_others` |
//! | a handler that never answers hangs its caller | the device answers at a deadline | `tests/mount/waits.rs a_hung_open_ends_at_the_deadline_or_by_a_signal_and_leaks_nothing` |
//! | a disk under a share or the cache stalls | another thread is started if all are busy | `tests/mount/traps.rs hung_calls_delay_no_others`, `tests/mount/traps.rs hung_listings_delay_no_others`, `tests/mount/traps.rs hung_closes_delay_no_others` |
//! | a stalled disk holds the thread of a foreign peer's answer, which closes the file of an unwanted answer | a separate thread closes it | `tests/mount/traps.rs the_close_of_an_undelivered_open_delays_no_others` |
//! | pages keep damaged bytes of the cache after these were found and dropped | the kernel drops its pages before a verification reports | `tests/mount/reads.rs no_reader_gets_damaged_bytes_after_the_verification_that_finds_them` |
//! | a change waits in its thread for bytes of another node, so a hundred of them occupy all threads | a limited number of threads works on such changes; others queue | `tests/mount/writing/others.rs copies_that_stand_still_delay_no_others_and_end_with_their_programs` |
//! | the kernel lets no name appear in a removed directory, also under its number for a new one | a new directory has another number while the kernel knows the removed one | `tests/mount/writing.rs a_directory_is_made_again_while_the_removed_one_is_open` |
//! | the kernel refuses one inode opened in two modes | the first open decides, until the last release | `tests/mount/reads.rs an_open_never_fails_while_a_file_becomes_complete` |

mod abi;
mod answers;
mod body;
pub mod broker;
mod budget;
mod changes;
mod counters;
mod delivery;
mod device;
mod inline_reads;
mod interrupts;
mod kernel_link;
mod mount;
mod mounter;
pub mod mounting;
mod notify;
mod passthrough;
mod pulse;
mod readers;
mod reading;
mod reads;
mod requests;
mod saved_init;
mod session;
mod session_link;
mod signals;
mod table;
mod threads;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub use budget::{ReaderBudget, WAIT_MAX as BUDGET_WAIT_MAX};
pub use counters::{Activity, LATENCY_BUCKETS, OperationCount};
pub use device::TRANSFER_MAX_BYTES;
pub use mount::{Mount, MountError, MountOptions, PendingMount};
pub use mounter::{check_device, device_trouble, has_broker};
pub use notify::WAITING_MAX as MAX_WAITING_NOTIFICATIONS;
pub use readers::Readers;
pub use reading::{FILES_MAX, FileReport, GivenReport, ReaderReport, WaitReport};
pub use requests::Deadlines;
pub use session::BACKGROUND_MAX;

use device::Device;
use kernel_link::KernelLink;
use mounter::KeptMountState;
use notify::NotifyQueues;
use passthrough::Passthrough;
use saved_init::SavedInit;

use p2pfs_fs::Filesystem;

/// Maximum wait for each of the two steps of the handshake. The kernel sends FUSE_INIT as soon as
/// the mount exists.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Nice levels that the thread that drops pages is below the others. It still has about a tenth of
/// a busy processor (sched(7)), which is more than it needs (docs/warm-reads.md).
const PAGES_NICE: i32 = 10;

/// Options of serving a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerOptions {
    /// Initial number of threads that read requests, 1 to 16.
    pub threads: usize,
    /// Deadlines at which the device ends a request.
    pub deadlines: Deadlines,
    /// Whether the kernel may read complete files by passthrough.
    pub passthrough: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        // Defaults for a mount without the daemon; `daemon::folder` derives its own from the
        // settings.
        let deadlines = Deadlines {
            read: Duration::from_secs(30),
            metadata: Duration::from_secs(5),
        };
        Self {
            threads: 4,
            deadlines,
            passthrough: true,
        }
    }
}

/// A served mount. Dropping it closes nothing; the mount must be unmounted.
pub struct ServedMount {
    device: Arc<Device>,
    queues: Arc<NotifyQueues>,
    passthrough: Arc<Passthrough>,
    end: Arc<MountEnd>,
}

/// End of the mount, and the threads that wait for it.
#[derive(Default)]
struct MountEnd {
    is_over: Mutex<bool>,
    changed: Condvar,
}

fn of_another_version() -> io::Error {
    io::Error::other("a p2pfs of another version kept it")
}

impl ServedMount {
    /// Serves the mount with this descriptor of /dev/fuse. Returns after the handshake with the
    /// kernel.
    ///
    /// A mount that a broker holds and that another process served is taken over. The kernel then
    /// resends its unanswered requests, if it can (Linux 6.9).
    ///
    /// # Errors
    /// If the kernel is too old, does not begin the handshake, or negotiated something else with
    /// the previous process, or if threads cannot be started.
    fn start(
        kernel: OwnedFd,
        fs: Arc<Filesystem>,
        options: ServerOptions,
        held: Option<&KeptMountState>,
    ) -> io::Result<Self> {
        let (greet, greeted) = mpsc::channel();
        let broker = held.map(|held| held.broker.clone());
        let kept = match held.and_then(|held| held.greeting.as_deref()) {
            Some(bytes) => Some(SavedInit::from_bytes(bytes).ok_or_else(of_another_version)?),
            None => None,
        };
        let notifiers = held.and_then(|held| held.notifiers.clone());
        let kernel = KernelLink::new(kernel, notifiers);
        let (device, pair) =
            Device::new(kernel, fs.clone(), options.deadlines, greet, kept.clone())?;
        let server = Self {
            passthrough: Arc::new(Passthrough::new(Arc::downgrade(&device), broker)),
            queues: Arc::new(NotifyQueues::default()),
            end: Arc::new(MountEnd::default()),
            device,
        };
        let agreed = server.start_threads(pair, fs.clone(), options)?;
        match &kept {
            Some(kept) => server.device.repeat_init(kept)?,
            None => server.read_requests(options.threads)?,
        }
        let closed = |_: &io::Error| server.device.close();
        let agreed = agreed.recv_timeout(HANDSHAKE_TIMEOUT);
        let agreed = agreed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let agrees_to_passthrough = agreed.inspect_err(closed)?;
        let greeting = greeted.recv_timeout(HANDSHAKE_TIMEOUT);
        let greeting = greeting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let greeting = greeting.inspect_err(closed)?;
        fs.caches.set_invalidator(server.queues.clone());
        if options.passthrough && server.passthrough.attempt(agrees_to_passthrough) {
            fs.files.set_backing_files(server.passthrough.clone());
        }
        if let (Some(greeting), Some(held)) = (greeting, held) {
            held.broker.store_handshake(greeting.to_bytes())?;
        }
        if kept.is_some() {
            server.read_requests(options.threads)?;
            let repeated = server.device.mount.kernel.resend_requests();
            tracing::debug!(?repeated, "took over the mount");
            // Changes during the takeover were not sent to the kernel.
            p2pfs_fs::Invalidator::invalidate(&*server.queues, p2pfs_fs::Stale::Everything);
        }
        Ok(server)
    }

    fn start_threads(
        &self,
        pair: OwnedFd,
        fs: Arc<Filesystem>,
        options: ServerOptions,
    ) -> io::Result<mpsc::Receiver<io::Result<bool>>> {
        let (tell, agreed) = mpsc::channel();
        let device = &self.device;
        let handlers = session::Handlers {
            fs,
            wants_passthrough: options.passthrough,
            agreed: tell,
        };
        spawn("fuse-session", move || {
            let run = session::run(pair, handlers);
            tracing::debug!(?run, "the session is over");
        })?;
        let answers = device.clone();
        spawn("fuse-answers", move || answers.return_answers())?;
        let requests = device.mount.requests.clone();
        spawn("fuse-deadlines", move || requests.enforce_deadlines())?;
        let reads = device.reads.clone();
        spawn("fuse-budgets", move || reads.serve_budgets())?;
        let (queues, notified) = (self.queues.clone(), device.clone());
        spawn("fuse-notify", move || queues.names.send_all(&notified))?;
        let (queues, notified) = (self.queues.clone(), device.clone());
        spawn("fuse-pages", move || {
            step_back();
            queues.pages.send_all(&notified);
        })?;
        Ok(agreed)
    }

    fn read_requests(&self, threads: usize) -> io::Result<()> {
        let threads = threads.clamp(1, 16);
        self.device
            .mount
            .threads
            .expect(threads, self.spare_threads());
        for number in 0..threads {
            let (device, queues, end) =
                (self.device.clone(), self.queues.clone(), self.end.clone());
            spawn(&format!("fuse-{number}"), move || {
                serve(&device, &queues, &end);
            })?;
        }
        Ok(())
    }

    /// Returns a function that starts one more serving thread, or returns `false` if it cannot.
    fn spare_threads(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let (device, queues) = (Arc::downgrade(&self.device), self.queues.clone());
        let end = self.end.clone();
        move || {
            let (device, queues, end) = (device.clone(), queues.clone(), end.clone());
            let started = spawn("fuse-spare", move || {
                if let Some(device) = device.upgrade() {
                    serve(&device, &queues, &end);
                }
            });
            started.is_ok()
        }
    }
}

impl MountEnd {
    fn declare(&self) {
        *self.is_over.lock() = true;
        self.changed.notify_all();
    }

    fn is_over(&self) -> bool {
        *self.is_over.lock()
    }

    fn wait(&self, timeout: Duration) {
        let mut is_over = self.is_over.lock();
        self.changed
            .wait_while_for(&mut is_over, |over| !*over, timeout);
    }
}

/// Runs one of the device threads. The last one ends the service of the mount.
fn serve(device: &Arc<Device>, queues: &NotifyQueues, end: &MountEnd) {
    if device.serve() {
        device.close();
        queues.close();
        device.mount.fs.files.release_all();
        end.declare();
    }
}

/// Lowers the priority of this thread, so that dropping pages behind a reader delays neither the
/// reader nor the fetch for it. If the kernel refuses, the thread keeps its priority.
fn step_back() {
    let result = rustix::process::nice(PAGES_NICE);
    tracing::debug!(
        ?result,
        "lowered the priority of the thread that drops pages"
    );
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
}
