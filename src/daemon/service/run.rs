//! The daemon's life: start, serve, reload, stop.
//!
//! Owns the order of the start: the control socket is taken first (it shows whether another daemon
//! runs), then the node, its shares, the mount, and readiness. After a failed start, the mount is
//! acquired before the node starts (`start_serving`). The stop ends the node and the mount at the
//! same time. A start that fails leaves nothing mounted and nothing running.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use landlock::RulesetStatus;
use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};

use super::answers::{self, ProbePace, limits as answer_limits, status, trust};
use super::effective_config::EffectiveConfig;
use super::fd_store::Kept;
use super::folder::Folder;
use super::logging::{self, LogHandle};
use super::memory::{self, Done, Memory};
use super::mount_rights::MountRights;
use super::node_config::{inbox_shares, node_config};
use super::seeds::NamedSeeds;
use super::services::{
    ActiveSettings, CallerRights, ConfiguredShares, DaemonActivity, ExaminationLocks, Lifecycle,
    Services,
};
use super::sharing::{added_by_command, share_all, share_missing};
use super::started_by::StartedBy;
use super::{
    conditions, confine, folder, former_names, isolation, journal, limits, metrics, own_dirs,
    reload, systemd, telling, watchdog,
};
use crate::daemon::config::{Config, ConfigError, Loaded, Place, Sources, saved, socket_of};
use crate::daemon::control::{
    ControlServer, FailedStart, MountActivity, MountStatus, Named, Policy, ServiceState,
};
use p2pfs_fuse::PendingMount;
use p2pfs_node::{
    Condition, Finding, ForeignPeers, Leave, NetError, Node, NodeError, Outdated, StopProblem,
};
use p2pfs_proto::trust::InviteToken;

pub use super::run_error::RunError;

/// Interval between updates of status and rates.
const TICK: Duration = Duration::from_secs(1);
/// Maximum time that a stop waits for the cache's map to be written. A cache disk that hangs must
/// not prevent the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// Maximum calls that wait for the node.
const CALLS_MAX: usize = 256;
/// Interval between retries of actions that failed: adding missing shares, and using a token whose
/// issuer did not answer.
const RETRY_PERIOD: Duration = Duration::from_secs(30);
/// Threads of the runtime for gossip, connections and control. Hashing and disks have their own
/// threads.
const WORKER_THREADS: usize = 4;
/// Up to this number of processors, the runtime has one thread. Each task that becomes ready wakes
/// an idle thread, which is useless while fetches occupy all processors. A large fetch took a
/// fifteenth less processor time with one thread than with four.
const FEW_PROCESSORS: usize = 2;
/// Time after which a start that is not over checks its disks, and interval between the checks.
const SLOW_START: Duration = Duration::from_secs(5);
/// Time after which a disk that does not make an empty file counts as silent.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// Beginning of the warning about a waiting token.
const TOKEN_WAITS: &str = "the token that was left before the start was";

/// Runs the daemon in the foreground until it is told to stop. Keeps `sources` for reloads.
///
/// # Errors
/// [`RunError`] says what failed and what to do.
pub fn run(sources: Sources, loaded: Loaded) -> Result<(), RunError> {
    memory::set_heaps();
    limits::leave_no_core();
    limits::open_many_files();
    logging::report_panics();
    let log = logging::start(loaded.config.log.level)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    systemd::open_inboxes(&loaded.config, &sources.environment);
    if p2pfs_fuse::has_broker() {
        match confine::confine(&loaded.config) {
            Ok(RulesetStatus::NotEnforced) => tracing::debug!("this kernel has no Landlock"),
            Ok(_) => tracing::debug!("from now on only the daemon's own directories are written"),
            Err(error) => tracing::warn!("the daemon is not confined by Landlock: {error}"),
        }
    }
    logging::begin_writing();
    let outcome = run_confined(sources, loaded, &log);
    systemd::finish_telling();
    logging::finish_writing();
    outcome
}

fn run_confined(sources: Sources, loaded: Loaded, log: &LogHandle) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build()
        .map_err(|source| RunError::System {
            what: "cannot start threads",
            source,
        })?;
    let outcome = runtime.block_on(live(sources, loaded, log));
    // A thread that still waits for a disk must not delay the end.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

/// Records that the configuration was refused, if a service manager runs the daemon. Otherwise
/// commands would tell the reason of an earlier failed start.
pub fn record_refusal(sources: &Sources, error: &ConfigError) {
    if !systemd::is_managed() {
        return;
    }
    let reason = error.to_string().lines().collect::<Vec<_>>().join("; ");
    let by_hand = Some(StartedBy::start_of_this_process());
    let socket = socket_of(sources).unwrap_or_else(|| sources.place.socket.clone());
    if let Err(why) = FailedStart::record(&socket, &reason, by_hand) {
        tracing::warn!("commands are not told of the refused configuration: {why}");
    }
}

/// Returns the peers of other protocols that the configuration turns on.
#[cfg(feature = "legacy")]
fn foreign_peers(config: &Config, kept: &mut Kept) -> Option<Arc<dyn ForeignPeers>> {
    super::legacy_peers::legacy_peers(config, kept)
}

/// Returns no peers, because this program was built without other protocols.
#[cfg(not(feature = "legacy"))]
fn foreign_peers(_: &Config, _: &mut Kept) -> Option<Arc<dyn ForeignPeers>> {
    None
}

fn worker_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(FEW_PROCESSORS, usize::from);
    if processors <= FEW_PROCESSORS {
        1
    } else {
        WORKER_THREADS
    }
}

async fn live(sources: Sources, loaded: Loaded, log: &LogHandle) -> Result<(), RunError> {
    let mut signals = Signals::catch()?;
    let slow_start = tokio::spawn(report_silent_disks(loaded.config.clone()));
    let started = start_serving(&loaded).await;
    slow_start.abort();
    match started {
        Ok(mut daemon) => {
            daemon.announce_ready();
            let leave = daemon.attend(signals, &sources, log).await;
            daemon.stop(leave).await;
            Ok(())
        }
        Err(error) => {
            let place = Place::of_this_process(&sources.environment);
            let error = error.of_start(&place, Place::is_system_served);
            back_off(&loaded.config, &error, &mut signals).await;
            Err(error)
        }
    }
}

/// Reports which own disk does not answer, if the start is not over after [`SLOW_START`]. The start
/// waits for the disk, because it must know the key and the members.
async fn report_silent_disks(config: Config) {
    let mut tick = tokio::time::interval_at(Instant::now() + SLOW_START, SLOW_START);
    loop {
        tick.tick().await;
        for (what, dir) in [
            ("state directory", &config.state_dir),
            ("cache", &config.cache_dir),
        ] {
            let probed = dir.clone();
            // A file without a name. A disk that hangs also holds the thread.
            let probe = spawn_blocking(move || tempfile::tempfile_in(probed).map(drop));
            if timeout(PROBE_LIMIT, probe).await.is_err() {
                let dir = dir.display();
                let said = format!(
                    "the start waits for the disk of the {what} {dir}, which does not answer; \
                     mend the disk, or give another directory"
                );
                tracing::warn!("{said}");
                return systemd::status(&said);
            }
        }
    }
}

/// Starts the node and mounts the folder. If the previous start failed, acquires the mount before
/// the node starts, so that a node whose folder cannot be mounted does not announce itself again
/// and again. Otherwise the node starts first, because readers of a restarting daemon wait for its
/// shares.
async fn start_serving(loaded: &Loaded) -> Result<Daemon, RunError> {
    let config = &loaded.config;
    own_dirs::check(config)?;
    let mut kept = Kept::by_manager();
    let control = kept.control(config)?;
    let failed_before = FailedStart::begin_again(&config.socket).is_some();
    let pending = if failed_before && config.mount.enabled {
        Some(folder::acquire(config).await?)
    } else {
        None
    };
    let mut daemon = match Daemon::start(loaded, kept).await {
        Ok(daemon) => daemon,
        Err(error) => {
            if let Some(Err(error)) = pending.map(PendingMount::abandon) {
                tracing::warn!("{error}");
            }
            return Err(error);
        }
    };
    daemon.serve_control(control);
    match daemon.mount(pending).await {
        Ok(()) => Ok(daemon),
        Err(error) => {
            daemon.stop(Leave::Away).await;
            Err(error)
        }
    }
}

/// If a service manager runs the daemon, records a failed start for the commands that wait at the
/// control socket. Unless the error is permanent, also waits before the service manager starts the
/// daemon again, longer after each failure.
async fn back_off(config: &Config, error: &RunError, signals: &mut Signals) {
    if !systemd::is_managed() {
        return;
    }
    let start_by_hand = error.is_permanent().then(StartedBy::start_of_this_process);
    let failed = FailedStart::record(&config.socket, &error.to_string(), start_by_hand);
    let failed = match failed {
        Ok(failed) => failed,
        Err(why) => return tracing::warn!("commands are not told of the failed start: {why}"),
    };
    if failed.start_by_hand.is_some() {
        return;
    }
    systemd::status(&error.to_string());
    tokio::select! {
        () = tokio::time::sleep(failed.pause()) => {}
        _ = signals.terminate.recv() => forget_failed_start(config),
        _ = signals.interrupt.recv() => forget_failed_start(config),
    }
}

/// Removes the record of the failed starts, because no further one follows.
fn forget_failed_start(config: &Config) {
    let _ = FailedStart::clear(&config.socket);
}

/// The signals that the daemon handles.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn catch() -> Result<Self, RunError> {
        let failed = |source| RunError::System {
            what: "cannot catch signals",
            source,
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            reload: signal(SignalKind::hangup()).map_err(failed)?,
        })
    }
}

/// A running daemon.
struct Daemon {
    services: Arc<Services>,
    config: Config,
    state: watch::Sender<ServiceState>,
    mount_status: watch::Sender<MountStatus>,
    /// The mounted folder and the task that checks it.
    folder: Option<(JoinHandle<()>, Arc<Folder>)>,
    leave_asked: mpsc::Receiver<()>,
    changes: Option<mpsc::Receiver<Outdated>>,
    seeds: Arc<NamedSeeds>,
}

impl Daemon {
    async fn start(loaded: &Loaded, mut kept: Kept) -> Result<Self, RunError> {
        let config = loaded.config.clone();
        let saved_shares =
            saved::load_shares(&config.state_dir).map_err(|source| RunError::Saved {
                dir: config.state_dir.clone(),
                source,
            })?;
        let foreign = foreign_peers(&config, &mut kept);
        let sockets = kept.sockets(&config)?;
        let mut node = Node::start_on(node_config(&config, foreign), sockets).await?;
        let changes = node.take_changes();
        let (state, state_now) = watch::channel(ServiceState::Starting);
        let (mount_status, mount_now) = watch::channel(MountStatus {
            enabled: config.mount.enabled,
            mounted: false,
            writable: false,
            dir: Named::from_local(&config.mount.dir),
            problem: None,
            activity: MountActivity::default(),
        });
        let (leave, leave_asked) = mpsc::channel(1);
        let services = Arc::new(Services {
            node: Arc::new(node),
            settings: ActiveSettings {
                at_start: config.clone(),
                in_force: ArcSwap::from_pointee(EffectiveConfig::at_start(loaded)),
                refused: ArcSwapOption::empty(),
            },
            lifecycle: Lifecycle {
                started: Timestamp::now(),
                state: state_now,
                mount: mount_now,
                leave,
            },
            rights: CallerRights {
                policy: Policy::of_this_process(),
                mount_rights: MountRights::of(&folder::options(&config)),
                probes: ProbePace::default(),
            },
            activity: DaemonActivity::default(),
            shares: ConfiguredShares {
                saved: Mutex::new(saved_shares),
                saving: Mutex::default(),
                missing: Mutex::default(),
            },
            health: ExaminationLocks::default(),
        });
        answer_limits::limit_as_configured(&services);
        trust::reserve_names(&services);
        former_names::drop_names_not_given(&services).await;
        journal::follow(&services);
        let mut daemon = Self {
            seeds: NamedSeeds::new(&config.seeds),
            services,
            config,
            state,
            mount_status,
            folder: None,
            leave_asked,
            changes,
        };
        daemon.start_tasks().await;
        Ok(daemon)
    }

    /// Starts the background work: shares, a waiting token, and the periodic update.
    async fn start_tasks(&mut self) {
        self.add_shares().await;
        if !self.services.shares.missing.lock().awaits_any() {
            self.services.node.shares().all_added();
        }
        tokio::spawn(retry_later(self.services.clone(), self.config.clone()));
        let node = &self.services.node;
        tracing::info!(
            "node {} ({}) on {}",
            node.name(),
            node.id().short(8),
            node.address()
        );
        tokio::spawn(self.seeds.clone().follow(node.clone()));
        tokio::spawn(pulse(self.services.clone()));
        let node = self.services.node.clone();
        tokio::spawn(async move { node.pins().maintain().await });
        let keeper = self.services.node.keeper().clone();
        tokio::spawn(async move { keeper.maintain().await });
        metrics::start(&self.services).await;
        tokio::spawn(isolation::watch(self.services.clone()));
    }

    /// Adds the shares of the configuration and those added by command.
    async fn add_shares(&self) {
        let mut wanted = self.config.share.clone();
        wanted.extend(inbox_shares(&self.config, &self.config.share));
        wanted.extend(added_by_command(&self.services).await);
        share_all(&self.services, wanted).await;
    }

    fn serve_control(&self, control: ControlServer) {
        let (calls, call_queue) = mpsc::channel(CALLS_MAX);
        tokio::spawn(control.serve(calls));
        tokio::spawn(answers::serve(self.services.clone(), call_queue));
    }

    async fn mount(&mut self, pending: Option<PendingMount>) -> Result<(), RunError> {
        let changes = self.changes.take();
        if !self.config.mount.enabled {
            if let Some(mut changes) = changes {
                tokio::spawn(async move { while let Some(_seen) = changes.recv().await {} });
            }
            return Ok(());
        }
        let folder =
            Folder::mount(&self.services, &self.config, &self.mount_status, pending).await?;
        if let Some(changes) = changes {
            tokio::spawn(telling::tell(folder.newest(), changes));
        }
        self.folder = Some((folder.spawn_check(), folder));
        Ok(())
    }

    fn announce_ready(&self) {
        self.state.send_replace(ServiceState::Serving);
        if let Some(failed) = FailedStart::clear(&self.config.socket) {
            journal::tell_start_works(&failed.reason);
        }
        systemd::ready();
        tokio::spawn(watchdog::keep(self.services.clone()));
    }

    /// Serves until the daemon is told to end; returns how to leave.
    async fn attend(&mut self, mut signals: Signals, sources: &Sources, log: &LogHandle) -> Leave {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return Leave::Away,
                _ = signals.interrupt.recv() => return Leave::Away,
                Some(()) = self.leave_asked.recv() => return Leave::Final,
                _ = signals.reload.recv() => self.reload(sources, log).await,
            }
        }
    }

    async fn reload(&mut self, sources: &Sources, log: &LogHandle) {
        systemd::reloading();
        match reload::apply(&self.services, &self.config, sources, log).await {
            Ok(config) => {
                self.seeds.replace(&config.seeds);
                tokio::spawn({
                    let (seeds, node) = (self.seeds.clone(), self.services.node.clone());
                    async move { seeds.greet(&node).await }
                });
                self.config = config;
                self.services.settings.refused.store(None);
                tracing::info!("the configuration was read again");
            }
            Err(error) => {
                let each = error.each().iter().map(ToString::to_string);
                let why = each.collect::<Vec<_>>().join("; ");
                self.services.settings.refused.store(Some(Arc::new(why)));
            }
        }
        conditions::review(&self.services).await;
        systemd::ready();
    }

    async fn stop(&mut self, leave: Leave) {
        self.state.send_replace(ServiceState::Stopping);
        systemd::stopping();
        let folder = self.folder.take();
        // The node stops below. A change during that must wait for the next daemon.
        if let Some((keeper, folder)) = &folder {
            keeper.abort();
            folder.hand_over();
        }
        let unmounted = spawn_blocking(move || match folder {
            Some((_, folder)) => folder.end(),
            None => Ok(()),
        });
        // An unmount has no time limit, so the problems of the node are logged before its end.
        let node_stopped = async {
            for problem in self.services.node.stop(leave).await {
                log_stop_problem(&problem);
            }
        };
        let ((), unmounted) = tokio::join!(node_stopped, unmounted);
        match unmounted {
            Ok(Err(error)) => tracing::error!("{error}"),
            Err(error) => tracing::error!("the unmount ended in a panic: {error}"),
            Ok(Ok(())) => {}
        }
        let node = self.services.node.clone();
        let flushed = spawn_blocking(move || node.cache().flush());
        let _lost_at_most_the_map = timeout(FLUSH_LIMIT, flushed).await;
        tracing::info!("stopped");
    }
}

/// Updates rates, conditions and status once a second, and returns unused memory to the kernel.
async fn pulse(services: Arc<Services>) {
    let mut tick = tokio::time::interval(TICK);
    let mut told = String::new();
    let mut memory = Memory::default();
    loop {
        tick.tick().await;
        status::take_rates(&services);
        conditions::review(&services).await;
        if let Some(status) = status::publish_status(&services) {
            let node = &services.node;
            let done = Done {
                names: status.namespace.entries,
                told_bytes: node.traffic().sent_log_bytes(),
                moved_bytes: node.traffic().received_bytes() + node.traffic().sent_bytes(),
            };
            node.traffic().release_unused_buffers();
            memory.look(done).await;
            let summary = systemd::summary(&status);
            if summary != told {
                systemd::status(&summary);
                told = summary;
            }
        }
    }
}

/// Adds missing shares and uses a waiting token, now and every [`RETRY_PERIOD`].
async fn retry_later(services: Arc<Services>, config: Config) {
    let mut tick = tokio::time::interval(RETRY_PERIOD);
    loop {
        tick.tick().await;
        share_missing(&services).await;
        use_waiting_token(&services, &config).await;
    }
}

/// Joins with the token that `p2pfs join` left while no daemon ran. Does nothing without such a
/// token.
async fn use_waiting_token(services: &Services, config: &Config) {
    let Ok(Some(text)) = saved::waiting_token(&config.state_dir) else {
        return;
    };
    let outcome = match InviteToken::parse(&text) {
        Ok(token) => {
            let given = former_names::given_names(services);
            services
                .node
                .membership()
                .join_with_names(&token, &given)
                .await
        }
        Err(error) => Err(NodeError::Trust(error)),
    };
    match outcome {
        Ok(()) => tracing::info!("joined the cluster of the token that was waiting"),
        // The token was not used, and the next start uses it.
        Err(NodeError::Stopping) => return,
        Err(error @ NodeError::Net(_)) if !is_over(&error) => {
            let found = Finding::with_own_remedy(&format!("{TOKEN_WAITS} not used yet: {error}"));
            return services
                .node
                .events()
                .begin(Condition::TokenWaits, "", found);
        }
        Err(error) => {
            forget_waiting_token(services);
            let found = format!("{TOKEN_WAITS} of no use: {error}");
            let found = Finding::with_own_remedy(&found);
            return services
                .node
                .events()
                .begin(Condition::TokenWaits, "", found);
        }
    }
    forget_waiting_token(services);
}

/// Returns whether the issuer refused a token that has expired by this node's clock.
fn is_over(error: &NodeError) -> bool {
    matches!(error, NodeError::Net(NetError::InviteExpired))
}

fn log_stop_problem(problem: &StopProblem) {
    match problem {
        StopProblem::NotResigned(_) => tracing::warn!("{problem}"),
        StopProblem::NotStored(_) | StopProblem::SilentDisk => tracing::error!("{problem}"),
    }
}

/// Removes the waiting token, because it was used or cannot be used, or this node joined with
/// another one.
pub(super) fn forget_waiting_token(services: &Services) {
    let dir = services.settings.at_start.state_dir.clone();
    // The caller does not wait for a disk that hangs.
    tokio::task::spawn_blocking(move || {
        if let Err(error) = saved::forget_token(&dir) {
            tracing::warn!("the used token stays in the state directory: {error}");
        }
    });
    services.node.events().end(Condition::TokenWaits, "");
}
