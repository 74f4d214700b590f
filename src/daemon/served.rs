//! What the mount does, for those who ask how the node is.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::config::{ProgramBudget, ReaderSettings};
use super::control::{
    FILES_TOLD_MAX, GivenInfo, MountActivity, Named, READERS_TOLD_MAX, ReadFileInfo, ReaderInfo,
    WaitInfo, WaitingFor,
};
use p2pfs_fuse::{FileReport, GivenReport, Mount, ReaderBudget, ReaderReport, WaitReport};
use p2pfs_types::path::SharedPath;

/// The mount that is served, once there is one. Holding this does not keep it.
#[derive(Default)]
pub(super) struct Served(Mutex<Weak<Mount>>);

impl Served {
    /// This is it from now on, with these rules for its readers.
    pub(super) fn set(&self, mount: &Arc<Mount>, rules: &ReaderSettings) {
        *self.0.lock() = Arc::downgrade(mount);
        self.set_cached_only(rules.cached_only.clone());
        self.set_budgets(&rules.budgets);
    }

    /// Which programs are given cached bytes only from now on.
    pub(super) fn set_cached_only(&self, programs: Vec<String>) {
        if let Some(mount) = self.mount() {
            mount.set_cached_only(programs);
        }
    }

    /// Which programs may have how much fetched a second from now on.
    pub(super) fn set_budgets(&self, budgets: &[ProgramBudget]) {
        let rule = |budget: &ProgramBudget| ReaderBudget {
            program: budget.program.clone(),
            bytes_s: budget.bytes_per_s,
        };
        if let Some(mount) = self.mount() {
            mount.set_budgets(budgets.iter().map(rule).collect());
        }
    }

    /// Who reads what in it, of the users that `is_told` names by number; how many more do.
    pub(super) fn readers(&self, is_told: impl Fn(u32) -> bool) -> (Vec<ReaderInfo>, u64) {
        let reports = self.mount().map(|it| it.readers()).unwrap_or_default();
        let all = reports.len();
        let mut told: Vec<_> = reports.into_iter().filter(|it| is_told(it.uid)).collect();
        let others = (all - told.len()) as u64;
        told.truncate(READERS_TOLD_MAX);
        (told.into_iter().map(reader_info).collect(), others)
    }

    /// Returns the files that a user's processes have open in it or read lately.
    pub(super) fn files_read_by(&self, uid: u32) -> Vec<Named> {
        let paths = self.mount().map(|it| it.files_read_by(uid));
        paths.into_iter().flatten().map(Named::new).collect()
    }

    /// Takes the readers' speeds, and forgets those that have gone.
    pub(super) fn look_at_readers(&self) {
        if let Some(mount) = self.mount() {
            mount.look_at_readers();
        }
    }

    /// Whether what serves the mount answers within this time; true where there is none to serve.
    pub(super) fn answers(&self, timeout: Duration) -> bool {
        self.mount()
            .is_none_or(|mount| !mount.is_mounted() || mount.answers(timeout))
    }

    /// Whether a program that looks into the folder finds this name now; true where nobody can.
    pub(super) fn shows(&self, path: &SharedPath) -> bool {
        self.mount().is_none_or(|mount| mount.shows(path))
    }

    /// Whether a program that looks into the folder finds all that is known by now; true where
    /// nobody can look.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.mount().is_none_or(|mount| mount.is_up_to_date())
    }

    /// Why there can be no mount for want of the device, which a mount broker has for its daemon;
    /// with what to do about it.
    pub(super) fn device_trouble(&self) -> Option<String> {
        match self.mount() {
            Some(mount) if mount.is_brokers() => None,
            _ => p2pfs_fuse::device_trouble().map(|trouble| trouble.to_string()),
        }
    }

    fn mount(&self) -> Option<Arc<Mount>> {
        self.0.lock().upgrade()
    }

    /// What it has done since it began; nothing where there is none.
    pub(super) fn activity(&self) -> MountActivity {
        let Some(mount) = self.mount() else {
            return MountActivity::default();
        };
        let activity = mount.activity();
        let counts = activity.operations.iter();
        let reads = counts.clone().find(|operation| operation.name == "read");
        MountActivity {
            requests: counts.map(|operation| operation.count).sum(),
            reads: reads.map_or(0, |operation| operation.count),
            read_bytes: activity.read_bytes,
            passthrough: mount.passthrough_refusal().is_none(),
        }
    }
}

fn reader_info(report: ReaderReport) -> ReaderInfo {
    let files = report.files.into_iter().take(FILES_TOLD_MAX);
    ReaderInfo {
        pid: report.pid,
        uid: report.uid,
        program: report.name,
        unit: report.unit,
        cached_only: report.cached_only,
        budget_bytes_per_s: report.budget_bytes_s,
        opens: report.opens,
        given: given_info(report.given),
        read_bytes_per_s: report.bytes_s,
        waiting: report.waiting.map(wait_info),
        files: files.map(file_info).collect(),
    }
}

fn file_info(report: FileReport) -> ReadFileInfo {
    ReadFileInfo {
        path: Named::new(report.path),
        open: report.open.into(),
        by_kernel: report.by_kernel,
        given: given_info(report.given),
        waiting: report.waiting.map(wait_info),
    }
}

fn given_info(report: GivenReport) -> GivenInfo {
    GivenInfo {
        reads: report.reads,
        from_cache_bytes: report.cache_bytes,
        from_peers_bytes: report.peer_bytes,
    }
}

fn wait_info(report: WaitReport) -> WaitInfo {
    WaitInfo {
        waiting_reads: report.reads,
        waiting_ms: u64::try_from(report.longest.as_millis()).unwrap_or(u64::MAX),
        waiting_for: if report.for_budget {
            WaitingFor::Budget
        } else {
            WaitingFor::Peers
        },
    }
}
