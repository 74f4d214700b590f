//! The folder: mounted at the start, looked at once a second, unmounted at the end.
//!
//! Where the mount broker ended, and the mount with it (a restart of its service, as upgrades of
//! libraries bring, unmounts), it is mounted anew, again and again until it can be. What somebody
//! unmounted by hand stays so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{interval, sleep};

use super::answers::Service;
use super::config::Config;
use super::control::{MountStatus, Named};
use super::journal::{self, message};
use p2pfs_fuse::{Mount, MountError, MountOptions};

/// How often it is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long at most until mounting anew is tried again; it begins with a second, and doubles.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Why the folder is gone where nobody unmounted it.
const BROKER_ENDED: &str = "its mount broker ended; it is mounted again as soon as one answers";

/// The mount that this daemon serves, and what is told of it.
pub(super) struct Folder {
    service: Arc<Service>,
    dir: PathBuf,
    options: MountOptions,
    status: watch::Sender<MountStatus>,
    /// The newest.
    mount: watch::Sender<Arc<Mount>>,
}

impl Folder {
    /// Mounts.
    ///
    /// # Errors
    /// Where it cannot be mounted.
    pub(super) async fn mount(
        service: &Arc<Service>,
        config: &Config,
        status: &watch::Sender<MountStatus>,
    ) -> Result<Arc<Self>, MountError> {
        let (dir, options) = (config.mount.dir.clone(), options(config));
        let (content, at) = (service.node.content(), dir.clone());
        let started = spawn_blocking(move || Mount::start(&at, content, &options));
        let mount = Arc::new(started.await.map_err(panicked(&dir))??);
        if let Some(why) = mount.passthrough_refusal() {
            service.node.warn(format!(
                "files are read through the daemon, not by the kernel itself: {why}; all works, \
                 but local reads are slower"
            ));
        }
        let this = Self {
            service: service.clone(),
            dir,
            options,
            status: status.clone(),
            mount: watch::Sender::new(mount),
        };
        this.tell_mounted();
        Ok(Arc::new(this))
    }

    /// The newest mount, now and whenever there is another.
    pub(super) fn newest(&self) -> watch::Receiver<Arc<Mount>> {
        self.mount.subscribe()
    }

    fn current(&self) -> Arc<Mount> {
        self.mount.borrow().clone()
    }

    /// Looks at it once a second, until this is dropped.
    pub(super) fn keep(self: &Arc<Self>) -> JoinHandle<()> {
        let this = self.clone();
        tokio::spawn(async move {
            let mut tick = interval(TICK);
            loop {
                tick.tick().await;
                this.look().await;
            }
        })
    }

    /// Somebody may have unmounted it by hand, or the mount broker by its end.
    async fn look(&self) {
        let mount = self.current();
        mount.note_listed();
        mount.look_at_broker();
        let is_mounted = mount.is_mounted();
        if is_mounted == self.status.borrow().mounted {
            return;
        }
        if is_mounted {
            // what lay over it is gone
            return self.status.send_modify(|status| {
                status.mounted = true;
                status.problem = None;
            });
        }
        let why = spawn_blocking(move || {
            if mount.broker_ended() {
                None
            } else {
                Some(mount.why_gone())
            }
        });
        match why.await {
            Ok(Some(why)) => self.tell_gone(why),
            Ok(None) => self.mount_again().await,
            Err(error) => self.tell_gone(error.to_string()),
        }
    }

    /// Tries to mount anew until that succeeds.
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
        let (content, before) = (self.service.node.content(), self.current());
        let (dir, options) = (self.dir.clone(), self.options);
        let again = spawn_blocking(move || before.start_again(&dir, content, &options));
        let mount = Arc::new(again.await.map_err(panicked(&self.dir))??);
        let before = self.mount.send_replace(mount.clone());
        // what was told to the one before, while this one was made
        mount.invalidate_all();
        let _ended = spawn_blocking(move || drop(before));
        Ok(())
    }

    fn tell_mounted(&self) {
        let mount = self.current();
        self.service
            .served
            .set(&mount, &self.service.in_force.load().config.readers);
        self.status.send_modify(|status| {
            status.mounted = true;
            status.dir = Named::from_local(mount.dir());
            status.problem = None;
        });
        tracing::info!("mounted at {}", mount.dir().display());
        if let Some(why) = mount.not_taken_over() {
            tracing::warn!(
                "the mount of the daemon before cannot be taken over: {why}; this is a new one, \
                 and what was open in the other fails with ENOTCONN"
            );
        }
    }

    fn tell_gone(&self, why: String) {
        let is_news = self.status.borrow().problem.as_ref() != Some(&why);
        if is_news {
            let text = format!("the folder is gone: {why}");
            journal::warn(message::FOLDER_GONE, &text);
        }
        self.status.send_modify(|status| {
            status.mounted = false;
            status.problem = Some(why);
        });
    }

    /// Unmounts, or hands over to the mount broker. Blocks.
    ///
    /// # Errors
    /// Where the kernel refuses, in words.
    pub(super) fn end(&self) -> Result<(), String> {
        self.current().end().map_err(|error| error.to_string())
    }
}

/// How the folder is mounted by these settings, and what it lets users do.
pub(super) fn options(config: &Config) -> MountOptions {
    let settings = &config.mount;
    let defaults = MountOptions::for_this_user();
    let mut options = MountOptions {
        uid: settings.uid.unwrap_or(defaults.uid),
        gid: settings.gid.unwrap_or(defaults.gid),
        file_mask: settings.fmask.unwrap_or(settings.umask).0,
        directory_mask: settings.dmask.unwrap_or(settings.umask).0,
        ..defaults
    };
    // The device gives up after the node has: it is the net below it. This is when it looks first:
    // a read of which the content says until when it waits is given that long
    // (`Device::more_time`), so that only one of which it knows nothing any more ends here.
    options.server.deadlines.read = settings.read_deadline * 4 + Duration::from_secs(5);
    if config.legacy.enabled {
        // a lookup may wait for legacy peers, then an open for a transfer's header
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
