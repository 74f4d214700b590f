//! The handles that all parts of the running daemon share.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::answers::{Gets, ProbePace, Sight, Viewer};
use super::effective_config::EffectiveConfig;
use super::missing::Missing;
use super::mount_rights::MountRights;
use super::rates::Rates;
use super::served::Served;
use crate::daemon::config::{Config, ShareSettings};
use crate::daemon::control::{Credentials, MountStatus, Policy, ServiceState};
use p2pfs_node::Node;

/// The node, and the state of the daemon around it. All parts of the daemon share one instance.
pub(super) struct Services {
    pub node: Arc<Node>,
    pub settings: ActiveSettings,
    pub lifecycle: Lifecycle,
    pub rights: CallerRights,
    pub activity: DaemonActivity,
    pub shares: ConfiguredShares,
    pub health: ExaminationLocks,
}

/// The settings of the daemon.
pub(super) struct ActiveSettings {
    /// The settings of the start.
    pub at_start: Config,
    /// The settings in force.
    pub in_force: ArcSwap<EffectiveConfig>,
    /// Why the settings that were last read were refused; `None` if they are in force.
    pub refused: ArcSwapOption<String>,
}

/// The phase of the daemon and of its mount.
pub(super) struct Lifecycle {
    /// When the daemon started.
    pub started: Timestamp,
    /// The phase of the daemon.
    pub state: watch::Receiver<ServiceState>,
    /// The current state of the mount.
    pub mount: watch::Receiver<MountStatus>,
    /// Ends the daemon as SIGTERM does, but leaves the cluster for good.
    pub leave: mpsc::Sender<()>,
}

impl Lifecycle {
    /// Returns whether the daemon stops.
    pub(super) fn is_stopping(&self) -> bool {
        *self.state.borrow() == ServiceState::Stopping
    }

    /// Waits until the start is complete or the daemon stops. The start includes the mount. A mount
    /// that is taken over from the previous process waits for a short time until the files of other
    /// nodes are listed again.
    pub(super) async fn wait_for_start(&self) {
        let mut state = self.state.clone();
        // The wait fails only if the daemon has ended.
        let _started = state.wait_for(|it| *it != ServiceState::Starting).await;
    }
}

/// The rights of the callers of the control socket, and the limits on the work that they cause.
pub(super) struct CallerRights {
    /// The rights of callers.
    pub policy: Policy,
    /// The rights of users in the mount.
    pub mount_rights: MountRights,
    /// The limits on probes of other nodes, for each user.
    pub probes: ProbePace,
}

impl CallerRights {
    pub(super) fn viewer(&self, caller: &Credentials) -> Viewer {
        Viewer::new(&self.policy, &self.mount_rights, caller)
    }

    /// Waits until a caller may make these probes. Root and the daemon's user never wait.
    pub(super) async fn pace(&self, sight: Sight, probes: u32) {
        if let Sight::Own(uid) = sight {
            self.probes.wait(uid, probes).await;
        }
    }
}

/// The current activity of the mount, the transfers and the callers.
#[derive(Default)]
pub(super) struct DaemonActivity {
    /// The activity of the mount.
    pub served: Served,
    /// The transfer rates of the node.
    pub rates: Rates,
    /// The files that each user got lately.
    pub gets: Mutex<Gets>,
}

/// The shares that were added by command, and all wanted shares that are missing.
#[derive(Default)]
pub(super) struct ConfiguredShares {
    /// The saved shares, which were added by command.
    pub saved: Mutex<Vec<ShareSettings>>,
    /// Held while the saved shares are written to the disk, so that the newest ones stay.
    pub saving: Mutex<()>,
    /// The shares of the configuration and of commands that could not be added yet.
    pub missing: Mutex<Missing>,
}

impl ConfiguredShares {
    /// Returns the saved shares.
    pub(super) fn all_saved(&self) -> Vec<ShareSettings> {
        self.saved.lock().clone()
    }
}

/// The locks that let each kind of examination of this node run once at a time.
#[derive(Default)]
pub(super) struct ExaminationLocks {
    /// Locked while a review of the conditions runs.
    pub reviewing: Arc<tokio::sync::Mutex<()>>,
    /// Locked while a checkup runs.
    pub checking: tokio::sync::Mutex<()>,
}
