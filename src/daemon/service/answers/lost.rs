//! Answers about deleted and replaced versions, and about the files of departed nodes.

use jiff::Timestamp;

use super::paths::shared_path;
use super::trust::escape_or_top;
use super::{Asked, Services, calendar_time};
use crate::daemon::control::{
    Adopted, Answer, DeletedFiles, DeletedVersion, Failure, FailureKind, Named, NotRestored,
    Restored, parameters,
};
use p2pfs_node::api::LostVersion;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::{SharedPath, escape};

/// Maximum number of versions in one reply.
const REPLY_MAX: usize = 1000;

impl Answer<Asked> for parameters::Deleted {
    async fn answer(self, asked: &mut Asked) -> Result<DeletedFiles, Failure> {
        asked.viewer.check_write()?;
        asked
            .blocking(move |services| {
                let wanted = Wanted::of(services, &self.path, self.by.as_deref(), self.since)?;
                Ok(deleted(services, &wanted))
            })
            .await
    }
}

impl Answer<Asked> for parameters::Restore {
    async fn answer(self, asked: &mut Asked) -> Result<Restored, Failure> {
        asked.viewer.check_write()?;
        asked
            .blocking(move |services| {
                let wanted = Wanted::of(services, &self.path, self.by.as_deref(), self.since)?;
                restore(services, &wanted)
            })
            .await
    }
}

impl Answer<Asked> for parameters::Adopt {
    async fn answer(self, asked: &mut Asked) -> Result<Adopted, Failure> {
        asked
            .blocking(move |services| adopt(services, &self.node, &shared_path(&self.path)?))
            .await
    }
}

/// The versions that a call is about.
struct Wanted {
    path: SharedPath,
    by: Option<NodeId>,
    since: Option<Timestamp>,
}

impl Wanted {
    fn of(
        services: &Services,
        path: &Named,
        by: Option<&str>,
        since: Option<Timestamp>,
    ) -> Result<Self, Failure> {
        let by = by.map(|name| node_called(services, name)).transpose()?;
        Ok(Self {
            path: shared_path(path)?,
            by,
            since,
        })
    }

    fn find(&self, services: &Services) -> Vec<LostVersion> {
        let own = services.node.id();
        let mut lost = services.node.files().lost().find(&self.path);
        lost.retain(|it| {
            self.by.is_none_or(|by| it.by.unwrap_or(own) == by)
                && self
                    .since
                    .is_none_or(|since| calendar_time(it.lost) >= since)
        });
        lost
    }
}

/// Returns the node that a user names: this node, or another by its name or key.
fn node_called(services: &Services, name: &str) -> Result<NodeId, Failure> {
    if name == services.node.name().as_str() {
        return Ok(services.node.id());
    }
    let node = services.node.names().author_called(name);
    node.or_else(|| name.parse().ok()).ok_or_else(|| {
        let message = format!(
            "no log of a node called {} is here",
            escape(name.as_bytes())
        );
        Failure::new(FailureKind::NotFound, message).with_remedy("p2pfs peers shows the names")
    })
}

/// Lists the files of a departed node at and below a path, as far as this node has all bytes.
fn adopt(services: &Services, name: &str, top: &SharedPath) -> Result<Adopted, Failure> {
    let node = node_called(services, name)?;
    let name = services.node.peers().name_of(&node);
    if node == services.node.id() || services.node.names().is_live(&node) {
        let message = format!(
            "cannot adopt the files of {}: it is live",
            escape(name.as_bytes())
        );
        return Err(Failure::new(FailureKind::Failed, message)
            .with_remedy("repeat this once p2pfs peers shows it as down"));
    }
    let lost = services.node.files().lost();
    let found = lost.adoptable(&node, top);
    let mut done = Adopted {
        missing: found.missing as u64,
        ..Adopted::default()
    };
    for file in &found.whole {
        match lost.adopt(file) {
            Ok(()) => done.adopted += 1,
            Err(error) => {
                done.failures += 1;
                if done.failed.len() < REPLY_MAX {
                    done.failed.push(NotRestored {
                        path: Named::new(file.path.as_bytes().to_vec()),
                        why: error.to_string(),
                    });
                }
            }
        }
    }
    Ok(done)
}

fn deleted(services: &Services, wanted: &Wanted) -> DeletedFiles {
    let lost = wanted.find(services);
    let own = services.node.id();
    let versions = lost.iter().take(REPLY_MAX).map(|it| DeletedVersion {
        path: Named::new(it.path.as_bytes().to_vec()),
        size_bytes: it.size_bytes,
        modified: calendar_time(it.mtime),
        lost: calendar_time(it.lost),
        by: services.node.peers().name_of(&it.by.unwrap_or(own)),
        replaced: it.is_replaced,
    });
    DeletedFiles {
        versions: versions.collect(),
        more: lost.len() > REPLY_MAX,
    }
}

/// Brings back the last lost version of the path, and of each path below it that has no version
/// now. With a time, also of those that have one.
fn restore(services: &Services, wanted: &Wanted) -> Result<Restored, Failure> {
    let mut lost = wanted.find(services);
    lost.dedup_by(|next, first| next.path == first.path);
    let is_whole = wanted.since.is_some();
    lost.retain(|it| is_whole || !it.is_replaced || it.path == wanted.path);
    if lost.is_empty() {
        let shown = escape_or_top(&wanted.path);
        let message = format!("{shown}: this node knows no deleted or replaced version of it");
        return Err(Failure::new(FailureKind::NotFound, message)
            .with_remedy("p2pfs ls --deleted shows what there is"));
    }
    let mut done = Restored::default();
    for version in &lost {
        match services.node.files().lost().restore(version) {
            Ok(()) => done.restored += 1,
            Err(error) => {
                done.failures += 1;
                if done.failed.len() < REPLY_MAX {
                    done.failed.push(NotRestored {
                        path: Named::new(version.path.as_bytes().to_vec()),
                        why: error.to_string(),
                    });
                }
            }
        }
    }
    Ok(done)
}
