//! Answers about what this node shares.

use std::path::Path;

use super::{Service, Sight, failed};
use crate::daemon::config::{ShareSettings, saved};
use crate::daemon::control::{
    Failure, FailureKind, Named, PROBLEMS_MAX, Problem, ShareInfo, ShareState, Shares,
};
use crate::node::door;

/// A configured share, as the node takes it.
pub(in crate::daemon) fn share_spec(settings: &ShareSettings) -> door::ShareSpec {
    door::ShareSpec {
        dir: settings.dir.clone(),
        include_private: settings.include_private,
        legacy: settings.legacy,
    }
}

impl Service {
    /// What is shared. Which files are left out says which private files there are, so others are
    /// told how many.
    pub(super) fn shares(&self, sight: Sight) -> Shares {
        let list = self.node.shared().into_iter();
        let mut shares: Vec<ShareInfo> = list.map(share_info).collect();
        if sight != Sight::All {
            shares.iter_mut().for_each(|share| share.problems.clear());
        }
        let read_bytes = self.node.hashed_bytes();
        Shares { shares, read_bytes }
    }

    /// Shares a folder from now on; it is kept only once the node has taken it.
    pub(super) fn add_share(&self, settings: ShareSettings) -> Result<Shares, Failure> {
        self.refuse_configured(&settings.dir)?;
        self.node
            .add_share(share_spec(&settings))
            .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        let mut kept = self.saved_shares.lock();
        kept.retain(|other| other.dir != settings.dir);
        kept.push(settings);
        self.keep(&kept)?;
        Ok(self.shares(Sight::All))
    }

    pub(super) fn remove_share(&self, dir: &Path) -> Result<Shares, Failure> {
        self.refuse_configured(dir)?;
        self.node
            .remove_share(dir)
            .map_err(|error| Failure::new(FailureKind::NotFound, error.to_string()))?;
        let mut kept = self.saved_shares.lock();
        let canonical = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        kept.retain(|other| other.dir != dir && other.dir != canonical);
        self.keep(&kept)?;
        Ok(self.shares(Sight::All))
    }

    /// What the configuration shares is changed there alone.
    fn refuse_configured(&self, dir: &Path) -> Result<(), Failure> {
        let canonical = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let is_it = |share: &ShareSettings| share.dir == dir || share.dir == canonical;
        if !self.config.share.iter().any(is_it) {
            return Ok(());
        }
        let message = format!("{} is shared by the configuration", dir.display());
        Err(Failure::new(FailureKind::Invalid, message)
            .with_remedy("change it in the configuration file and reload the daemon"))
    }

    fn keep(&self, kept: &[ShareSettings]) -> Result<(), Failure> {
        saved::save_shares(&self.config.state_dir, kept)
            .map_err(|error| failed(format!("done, but not kept for the next start: {error}")))
    }
}

fn share_info(status: door::ShareStatus) -> ShareInfo {
    let (state, pending_files) = match status.state {
        door::ShareState::Scanning => (ShareState::Scanning, 0),
        door::ShareState::Hashing { files_left } => (ShareState::Scanning, files_left),
        door::ShareState::Ready => (ShareState::Ready, 0),
        door::ShareState::Vanished => (ShareState::Unreadable, 0),
    };
    let whole = status.warning.iter().map(|why| Problem {
        path: Named::from_local(&status.dir),
        why: why.clone(),
    });
    let said = |left: &&door::LeftOut| status.warning.is_none() || left.path != status.dir;
    let parts = status.left_out.iter().filter(said).map(|left| Problem {
        path: Named::from_local(&left.path),
        why: if left.remedy.is_empty() {
            left.why.to_string()
        } else {
            format!("{}: {}", left.why, left.remedy)
        },
    });
    let problems = whole.chain(parts).take(PROBLEMS_MAX).collect();
    ShareInfo {
        state,
        pending_files,
        pending_bytes: status.bytes_left,
        problems,
        include_private: status.include_private,
        legacy: status.legacy,
        files: status.files,
        bytes: status.bytes,
        left_out_files: status.left_out_count,
        dir: Named::from_local(&status.dir),
    }
}
