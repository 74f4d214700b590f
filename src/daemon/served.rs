//! What the mount does, for those who ask how the node is.

use std::sync::{Arc, OnceLock, Weak};

use super::control::MountActivity;
use crate::fuse::Mount;

/// The mount that is served, once there is one. Holding this does not keep it.
#[derive(Default)]
pub struct Served(OnceLock<Weak<Mount>>);

impl Served {
    /// There is one now. Only the first call counts.
    pub fn set(&self, mount: &Arc<Mount>) {
        let _ = self.0.set(Arc::downgrade(mount));
    }

    /// Which programs are given cached bytes only from now on.
    pub fn set_cached_only(&self, programs: Vec<String>) {
        if let Some(mount) = self.0.get().and_then(Weak::upgrade) {
            mount.set_cached_only(programs);
        }
    }

    /// What it has done since it began; nothing where there is none.
    pub fn activity(&self) -> MountActivity {
        let Some(mount) = self.0.get().and_then(Weak::upgrade) else {
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
