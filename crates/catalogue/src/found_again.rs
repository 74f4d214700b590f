//! Searches for names by content.

use bytes::Bytes;

use super::orders::HashFrom;
use super::row::{Class, DirId, Row};
use super::view::View;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// The names of a content, by one record of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNames {
    /// The content.
    pub hash: ContentHash,
    /// The path under which the file is listed, which may be a conflict name. If the file is not
    /// listed, its own path, which may show another version. `None` if a node has the content only
    /// in its cache.
    pub listed: Option<SharedPath>,
    /// The label of the sharing node, and the path among that node's files.
    pub shared: Option<(String, SharedPath)>,
}

impl View {
    /// Returns the names of the contents with hashes that begin with the first `bits` bits of
    /// `start`. At most `limit` records are examined.
    pub fn files_like(&self, start: &ContentHash, bits: u32, limit: usize) -> Vec<FileNames> {
        let leading = |hash: &[u8; 32]| {
            let [a, b, c, d, ..] = *hash;
            u32::from_be_bytes([a, b, c, d]) >> (u32::BITS - bits)
        };
        let wanted = leading(start.as_bytes());
        let mut first = [0; 32];
        first[..4].copy_from_slice(&(wanted << (u32::BITS - bits)).to_be_bytes());
        let from = HashFrom::files(ContentHash::new(first));
        let rows = self.merged.by_hash.from(&from).map(|by| &by.row);
        rows.take_while(|row| leading(&row.hash) == wanted)
            .take(limit)
            .filter(|row| row.gives_content())
            .map(|row| self.file_names(row))
            .collect()
    }

    fn file_names(&self, row: &Row) -> FileNames {
        if !row.has_name() {
            return FileNames {
                hash: row.hash(),
                listed: None,
                shared: None,
            };
        }
        let shared = self.merged.path_of(row.dir, row.name());
        FileNames {
            hash: row.hash(),
            listed: self.listed_path(row).or_else(|| Some(shared.clone())),
            shared: Some((self.merged.node(row.author).label.to_string(), shared)),
        }
    }

    /// Passes all listed directories, the root first, and all links with their targets to `take`.
    /// Its cost grows with the number of names.
    pub fn directories_and_links(&self, mut take: impl FnMut(SharedPath, Option<Bytes>)) {
        let mut waiting = vec![DirId::ROOT];
        while let Some(id) = waiting.pop() {
            let dir = self.merged.dir(id);
            take(self.merged.path_of(id, &[]), None);
            let own_names = dir.listed.iter().map(|row| (&row.0, row.0.name()));
            let aliases = dir.aliases.iter().map(|it| (it.row(), it.name()));
            for (row, name) in own_names.chain(aliases) {
                if row.class == Class::Symlink {
                    let target = Bytes::copy_from_slice(row.target());
                    take(self.merged.path_of(id, name), Some(target));
                }
            }
            waiting.extend(dir.dirs.iter().map(|place| place.id()));
        }
    }
}
