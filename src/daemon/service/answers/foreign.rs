//! Answers about foreign files: files in the root that no node shares.

use super::{Services, calendar_time};
use crate::daemon::control::{EntryKind, LsEntry, NO_HASH, Named, Plane, Provenance, VersionInfo};
use p2pfs_node::api::ForeignFile;
use p2pfs_types::path::SharedPath;

/// Returns the file that a foreign peer is known to have under a name in the root. The caller has
/// found that no node shares this name.
pub(super) fn foreign_file(services: &Services, path: &SharedPath) -> Option<ForeignFile> {
    if path.components().count() != 1 {
        return None;
    }
    services.node.foreign()?.files()?.known(path.as_bytes())
}

/// Returns the files in the root that no node shares and that a foreign peer is known to have.
pub(super) fn foreign_entries(services: &Services) -> Vec<LsEntry> {
    let foreign = services.node.foreign().and_then(|foreign| foreign.files());
    let names = foreign.map(|files| files.names()).unwrap_or_default();
    let paths = names
        .into_iter()
        .filter_map(|name| SharedPath::new(name).ok());
    let paths = paths.filter(|path| services.node.names().find(path).is_err());
    let files = paths.filter_map(|path| Some((foreign_file(services, &path)?, path)));
    files
        .map(|(file, path)| foreign_entry(&path, &file))
        .collect()
}

/// Explains the content of a foreign file's name.
pub(super) fn foreign_provenance(
    services: &Services,
    path: &SharedPath,
    file: &ForeignFile,
) -> Provenance {
    let entry = foreign_entry(path, file);
    let peer = file.holder.clone();
    Provenance {
        path: entry.path.clone(),
        listed: true,
        rule: format!(
            "no p2pfs node shares it: the legacy peer {peer} said first that it has it, and \
             nothing verifies its bytes"
        ),
        next_read: next_foreign_read(services, file),
        sent_by: None,
        left_out: None,
        owner: None,
        versions: vec![VersionInfo {
            shown_as: Some(entry.path),
            won: true,
            waits: false,
            author: peer,
            author_node: String::new(),
            kind: entry.kind,
            hash: None,
            size_bytes: file.size_bytes,
            modified: entry.modified,
            version_time: entry.modified,
            holders: entry.holders,
            cached_bytes: entry.cached_bytes,
            verified: NO_HASH.to_owned(),
        }],
    }
}

fn next_foreign_read(services: &Services, file: &ForeignFile) -> String {
    let (here, size_bytes, peer) = (file.cached_bytes, file.size_bytes, &file.holder);
    if here == size_bytes && here > 0 {
        return "read from the copy of a moment ago".to_owned();
    }
    if here > 0 {
        return format!("join its transfer: {here} of {size_bytes} bytes have come");
    }
    if !services.node.cache().has_room_for(size_bytes) {
        return format!(
            "fetch its {size_bytes} bytes from the legacy peer {peer} as they are read: the \
             cache has no room for them"
        );
    }
    format!("fetch all of its {size_bytes} bytes from the legacy peer {peer}, from the first on")
}

/// Describes a foreign file. The mtime is the time when this node first learned of the file.
pub(super) fn foreign_entry(path: &SharedPath, file: &ForeignFile) -> LsEntry {
    LsEntry {
        path: Named::new(path.as_bytes()),
        kind: EntryKind::File,
        size_bytes: file.size_bytes,
        modified: calendar_time(file.mtime),
        executable: false,
        hash: None,
        holders: vec![file.holder.clone()],
        cached_bytes: file.cached_bytes,
        pinned: false,
        plane: Plane::Legacy,
    }
}

/// Explains why a file is not fetched into the cache and not pinned.
pub(super) fn not_kept(file: &ForeignFile) -> String {
    let peer = &file.holder;
    format!(
        "only the legacy peer {peer} has it, and bytes without a hash are not kept in the cache: \
         p2pfs get copies it"
    )
}
