//! The mounted folder: mounted at the start, checked once a second, unmounted at the end.
//!
//! If the mount broker ends, its mount ends, too. This happens when the broker's service is
//! restarted, for instance after an upgrade of libraries. The daemon then mounts the folder again,
//! with retries until that succeeds. A folder that a user unmounted by hand stays unmounted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{interval, sleep};

use super::remount;
use super::served::Served;
use super::services::Services;
use crate::daemon::config::{Config, saved};
use crate::daemon::control::{MountStatus, Named};
use p2pfs_fuse::mounting::MountingError;
use p2pfs_fuse::{Mount, MountError, MountOptions, PendingMount};
use p2pfs_node::{Condition, Finding};

/// Interval between checks of the mount.
const TICK: Duration = Duration::from_secs(1);
/// Maximum pause between attempts to mount again. The first pause is [`TICK`], and each further
/// pause is twice as long.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Reason for the missing folder after the mount broker ended.
const BROKER_ENDED: &str = "its mount broker ended; it is mounted again as soon as one answers";

/// The mount that this daemon serves, and its reported status.
pub(super) struct Folder {
    services: Arc<Services>,
    dir: PathBuf,
    options: MountOptions,
    status: watch::Sender<MountStatus>,
    /// The current mount.
    mount: watch::Sender<Arc<Mount>>,
    /// Whether the current mount was made writable or read-only; `None` if it must be.
    is_writable: Mutex<Option<bool>>,
}

impl Folder {
    /// Mounts the folder, or serves the mount that [`acquire`] made.
    ///
    /// # Errors
    /// Fails if the folder cannot be mounted.
    pub(super) async fn mount(
        services: &Arc<Services>,
        config: &Config,
        status: &watch::Sender<MountStatus>,
        pending: Option<PendingMount>,
    ) -> Result<Arc<Self>, MountError> {
        let (dir, options) = (config.mount.dir.clone(), mount_options(config));
        let (content, at) = (services.node.files().namespace(), dir.clone());
        let started = spawn_blocking(move || match pending {
            Some(pending) => pending.serve(content, &options),
            None => Mount::start(&at, content, &options),
        });
        let mount = Arc::new(started.await.map_err(panicked(&dir))??);
        if let Some(why) = mount.passthrough_refusal() {
            let said = "files are read through the daemon, not by the kernel itself";
            let found = Finding::new(format!("{said}: {why}"));
            services
                .node
                .events()
                .begin(Condition::NoPassthrough, "", found);
        }
        Served::try_cache(services, &mount);
        let this = Self {
            services: services.clone(),
            dir,
            options,
            status: status.clone(),
            mount: watch::Sender::new(mount),
            is_writable: Mutex::new(None),
        };
        this.follow_shares().await;
        this.tell_mounted();
        Ok(Arc::new(this))
    }

    /// Returns a receiver of the current mount, and of each later mount that replaces it.
    pub(super) fn newest(&self) -> watch::Receiver<Arc<Mount>> {
        self.mount.subscribe()
    }

    fn current(&self) -> Arc<Mount> {
        self.mount.borrow().clone()
    }

    /// Checks the mount once a second, until the task is aborted.
    pub(super) fn spawn_check(self: &Arc<Self>) -> JoinHandle<()> {
        let this = self.clone();
        tokio::spawn(async move {
            let mut tick = interval(TICK);
            let mut folders = this.services.node.shares().watch_writable();
            loop {
                tokio::select! {
                    _ = tick.tick() => this.look().await,
                    Ok(()) = folders.changed() => {}
                }
                this.follow_shares().await;
            }
        })
    }

    /// Makes the mount writable if a share is, and read-only if none is. If that fails, a later call
    /// tries again.
    async fn follow_shares(&self) {
        let is_writable = !self.services.node.shares().writable().is_empty();
        if *self.is_writable.lock() == Some(is_writable) {
            return;
        }
        let mount = self.current();
        let changed = spawn_blocking(move || mount.set_writable(is_writable)).await;
        let events = self.services.node.events();
        match changed.map_err(panicked(&self.dir)) {
            Ok(Ok(())) => {
                *self.is_writable.lock() = Some(is_writable);
                events.end(Condition::NotWritable, "");
                self.status
                    .send_modify(|status| status.writable = is_writable);
            }
            // The mount is gone, or it stays as it was.
            Ok(Err(MountingError::Vanished { .. })) => {}
            Ok(Err(error)) => {
                let found = Finding::with_own_remedy(&error.to_string());
                events.begin(Condition::NotWritable, "", found);
            }
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Checks whether the folder was unmounted, by a user or by the end of the mount broker.
    async fn look(&self) {
        let mount = self.current();
        mount.record_namespace();
        mount.check_broker();
        let is_mounted = mount.is_mounted();
        if is_mounted == self.status.borrow().mounted {
            return;
        }
        if is_mounted {
            // A mount that covered the folder is gone.
            self.services.node.events().end(Condition::FolderGone, "");
            return self.status.send_modify(|status| {
                status.mounted = true;
                status.problem = None;
            });
        }
        let why = spawn_blocking(move || {
            if mount.broker_ended() {
                None
            } else {
                let (why, dir) = (mount.why_gone(), mount.dir());
                Some(if why.contains("; ") {
                    why
                } else {
                    format!("{why}; {}", remount::remedy(dir))
                })
            }
        });
        match why.await {
            Ok(Some(why)) => self.tell_gone(why),
            Ok(None) => self.mount_again().await,
            Err(error) => self.tell_gone(error.to_string()),
        }
    }

    /// Mounts the folder again, with retries until that succeeds.
    async fn mount_again(&self) {
        self.tell_gone(BROKER_ENDED.to_owned());
        let mut pause = TICK;
        while let Err(error) = self.try_to_mount_again().await {
            self.tell_gone(format!(
                "its mount broker ended, and it cannot be mounted again yet: {error}; p2pfs tries \
                 again by itself; if that does not help: systemctl restart p2pfs-broker"
            ));
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        self.tell_mounted();
        tracing::info!("what was open in the folder before fails with ENOTCONN");
    }

    async fn try_to_mount_again(&self) -> Result<(), MountError> {
        let (content, before) = (self.services.node.files().namespace(), self.current());
        let (dir, options) = (self.dir.clone(), self.options);
        let again = spawn_blocking(move || before.start_again(&dir, content, &options));
        let mount = Arc::new(again.await.map_err(panicked(&self.dir))??);
        let before = self.mount.send_replace(mount.clone());
        *self.is_writable.lock() = None;
        // Invalidations that arrived while this mount was made went to the previous mount.
        mount.invalidate_all();
        let _ended = spawn_blocking(move || drop(before));
        Ok(())
    }

    fn tell_mounted(&self) {
        let mount = self.current();
        self.services.activity.served.set(
            &mount,
            &self.services.settings.in_force.load().config.readers,
        );
        self.status.send_modify(|status| {
            status.mounted = true;
            status.dir = Named::from_local(mount.dir());
            status.problem = None;
        });
        self.services.node.events().end(Condition::FolderGone, "");
        tracing::info!("mounted at {}", mount.dir().display());
        if let Some(why) = mount.not_taken_over() {
            tracing::warn!(
                "the mount of the daemon before cannot be taken over: {why}; this is a new one, \
                 and what was open in the other fails with ENOTCONN"
            );
        }
    }

    fn tell_gone(&self, why: String) {
        let found = Finding::with_own_remedy(&format!("the folder is gone: {why}"));
        let found = match self.services.activity.served.device_trouble() {
            Some(trouble) => found.remedy(trouble),
            None => found,
        };
        self.services
            .node
            .events()
            .begin(Condition::FolderGone, "", found);
        self.status.send_modify(|status| {
            status.mounted = false;
            status.problem = Some(why);
        });
    }

    /// Hands a mount of the broker over to the next daemon. Never waits.
    pub(super) fn hand_over(&self) {
        self.current().hand_over();
    }

    /// Unmounts, or hands the mount over to the broker. Blocks.
    ///
    /// # Errors
    /// The kernel's refusal as text.
    pub(super) fn end(&self) -> Result<(), String> {
        self.current().end().map_err(|error| error.to_string())
    }
}

/// Mounts the folder without serving it yet.
///
/// # Errors
/// Fails if the folder cannot be mounted.
pub(super) async fn acquire(config: &Config) -> Result<PendingMount, MountError> {
    let (dir, options) = (config.mount.dir.clone(), mount_options(config));
    let acquired = spawn_blocking(move || PendingMount::acquire(&dir, &options));
    acquired.await.map_err(panicked(&config.mount.dir))?
}

/// Returns the mount options for these settings and the saved shares. Reads a file.
fn mount_options(config: &Config) -> MountOptions {
    let saved = saved::load_shares(&config.state_dir).unwrap_or_default();
    let mut shares = config.share.iter().chain(&saved);
    MountOptions {
        may_be_written: shares.any(|share| share.writable),
        ..options(config)
    }
}

/// Returns the mount options for these settings, including the permissions of users.
pub(super) fn options(config: &Config) -> MountOptions {
    let settings = &config.mount;
    let defaults = MountOptions::for_this_user();
    let mut options = MountOptions {
        uid: settings.uid.unwrap_or(defaults.uid),
        gid: config.write.group.or(settings.gid).unwrap_or(defaults.gid),
        file_mask: settings.fmask.unwrap_or(settings.umask).0,
        directory_mask: settings.dmask.unwrap_or(settings.umask).0,
        ..defaults
    };
    // The read deadline of the device is a safety net below that of the node, so it is longer. When
    // it passes, the device extends it to the deadline that the content has for this read
    // (`Requests::more_time`). The device ends a read only if the content no longer knows it, or
    // does not answer in time.
    options.server.deadlines.read = settings.read_deadline * 4 + Duration::from_secs(5);
    if config.legacy.enabled {
        // A lookup may wait for legacy peers, and an open may then wait for the header of a
        // transfer.
        let deadline = &mut options.server.deadlines.metadata;
        *deadline = (*deadline).max(config.legacy.lookup + Duration::from_secs(30));
    }
    options
}

fn panicked(dir: &Path) -> impl FnOnce(JoinError) -> MountError + use<'_> {
    move |error| MountError::Serve {
        dir: dir.to_owned(),
        why: std::io::Error::other(error),
    }
}
