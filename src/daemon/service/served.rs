//! The activity of the mount, for status reports.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::rates::Counter;
use super::services::Services;
use crate::daemon::config::{ProgramBudget, ReaderSettings};
use crate::daemon::control::{
    FILES_TOLD_MAX, GivenInfo, MountActivity, Named, READERS_TOLD_MAX, ReadFileInfo, ReaderInfo,
    WaitInfo, WaitingFor,
};
use p2pfs_fuse::{FileReport, GivenReport, Mount, ReaderBudget, ReaderReport, WaitReport};
use p2pfs_types::path::SharedPath;

/// The served mount, if there is one. Holds a weak reference, which does not keep the mount alive.
#[derive(Default)]
pub(super) struct Served {
    mount: Mutex<Weak<Mount>>,
    slow_cache: Mutex<Option<String>>,
}

impl Served {
    /// Sets the mount and the rules for its readers.
    pub(super) fn set(&self, mount: &Arc<Mount>, rules: &ReaderSettings) {
        *self.mount.lock() = Arc::downgrade(mount);
        self.set_cached_only(rules.cached_only.clone());
        self.set_budgets(&rules.budgets);
    }

    /// Tests whether the kernel reads files of the cache itself, on a thread that may block on the
    /// disk of the cache.
    pub(super) fn try_cache(services: &Arc<Services>, mount: &Arc<Mount>) {
        let (services, mount) = (services.clone(), mount.clone());
        let _detached = tokio::task::spawn_blocking(move || {
            let dir = &services.settings.at_start.cache_dir;
            *services.activity.served.slow_cache.lock() = mount.passthrough_refusal_in(dir);
        });
    }

    /// Returns why the daemon reads the files of the cache for the kernel, although the kernel
    /// itself reads files of other disks.
    pub(super) fn slow_cache(&self) -> Option<String> {
        self.slow_cache.lock().clone()
    }

    /// Sets the programs that may read cached bytes only.
    pub(super) fn set_cached_only(&self, programs: Vec<String>) {
        if let Some(mount) = self.mount() {
            mount.readers().set_cached_only(programs);
        }
    }

    /// Sets the fetch budgets of programs.
    pub(super) fn set_budgets(&self, budgets: &[ProgramBudget]) {
        let rule = |budget: &ProgramBudget| ReaderBudget {
            program: budget.program.clone(),
            bytes_s: budget.bytes_per_s,
        };
        if let Some(mount) = self.mount() {
            let budgets = budgets.iter().map(rule).collect();
            mount.readers().set_budgets(budgets);
        }
    }

    /// Returns at most [`READERS_TOLD_MAX`] readers of the mount whose user ID passes `is_told`.
    /// Also returns the number of readers of all other users.
    pub(super) fn readers(&self, is_told: impl Fn(u32) -> bool) -> (Vec<ReaderInfo>, u64) {
        let reports = self
            .mount()
            .map(|it| it.report_readers())
            .unwrap_or_default();
        let all = reports.len();
        let mut told: Vec<_> = reports.into_iter().filter(|it| is_told(it.uid)).collect();
        let others = (all - told.len()) as u64;
        told.truncate(READERS_TOLD_MAX);
        (told.into_iter().map(reader_info).collect(), others)
    }

    /// Returns the bytes that the daemon has served to each process in the mount.
    pub(super) fn read_bytes(&self) -> Vec<(Counter, u64)> {
        let read = self
            .mount()
            .map(|it| it.readers().read_bytes())
            .unwrap_or_default();
        let counted = read.into_iter();
        let counted = counted.map(|(pid, uid, bytes)| (Counter::Reader { pid, uid }, bytes));
        counted.collect()
    }

    /// Returns the files that a user's processes have open in the mount or have read lately.
    pub(super) fn files_read_by(&self, uid: u32) -> Vec<Named> {
        let paths = self.mount().map(|it| it.readers().files_of(uid));
        paths.into_iter().flatten().map(Named::new).collect()
    }

    /// Updates the rates of the readers, and forgets readers that are gone.
    pub(super) fn update_readers(&self) {
        if let Some(mount) = self.mount() {
            mount.readers().update_rates();
        }
    }

    /// Returns whether the mount answers within the timeout; `true` if nothing is mounted.
    pub(super) fn answers(&self, timeout: Duration) -> bool {
        self.mount()
            .is_none_or(|mount| !mount.is_mounted() || mount.answers(timeout))
    }

    /// Returns whether a program that looks into the folder finds this name now; `true` without a
    /// mount.
    pub(super) fn shows(&self, path: &SharedPath) -> bool {
        self.mount().is_none_or(|mount| mount.shows(path))
    }

    /// Returns whether the folder shows all known changes; `true` without a mount.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.mount().is_none_or(|mount| mount.is_up_to_date())
    }

    /// Returns why the FUSE device is unusable, with the remedy. Returns `None` for a mount by the
    /// mount broker, because the broker has the device and the daemon needs none.
    pub(super) fn device_trouble(&self) -> Option<String> {
        match self.mount() {
            Some(mount) if mount.is_brokers() => None,
            _ => p2pfs_fuse::device_trouble().map(|trouble| trouble.to_string()),
        }
    }

    fn mount(&self) -> Option<Arc<Mount>> {
        self.mount.lock().upgrade()
    }

    /// Returns the counters since the mount began; zeros without a mount.
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
