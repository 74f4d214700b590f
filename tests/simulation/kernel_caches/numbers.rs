//! Requests of the kernel by inode number alone: for inodes that it has forgotten, by a file
//! handle, and for inodes that it looked up in an earlier process.

use p2pfs_fs::{FileKind, Filesystem, FsError, ROOT_INO};

use crate::kernel_caches::kernel::Kernel;

impl Kernel {
    /// Opens an inode that was once known by its handle. The result is that inode or ESTALE.
    pub(super) fn open_by_handle(&mut self, nth: usize) {
        let mut forgotten: Vec<u64> = (self.identities.keys().copied())
            .filter(|ino| !self.inodes.contains_key(ino))
            .collect();
        forgotten.sort_unstable();
        let Some(ino) = forgotten.get(nth % forgotten.len().max(1)).copied() else {
            return;
        };
        let stands = self.stands_for_its_name(ino);
        match self.fs.inodes.lookup(ino, b".", 0) {
            Ok(entry) => {
                assert_eq!(entry.attributes.ino, ino);
                self.expect_identity(ino, entry.attributes.kind);
                if entry.attributes.kind == FileKind::Directory {
                    let above = self.fs.inodes.lookup(ino, b"..", 0).unwrap().attributes;
                    assert_eq!(above.kind, FileKind::Directory);
                    self.fs.inodes.forget(above.ino, 1);
                }
                self.fs.inodes.forget(ino, 1);
            }
            Err(FsError::Gone) => assert!(!stands, "{:?} is not found", self.identities[&ino]),
            Err(error) => panic!("{:?}: {error}", self.identities[&ino]),
        }
    }

    /// Replaces the process that serves the mount. No file is open.
    pub(super) fn restart(&mut self, fs: Filesystem) {
        assert_eq!(self.fs.open_counts().1, 0);
        self.serve_by(fs);
        let known: Vec<u64> = self.inodes.keys().copied().collect();
        for ino in known.into_iter().filter(|ino| *ino != ROOT_INO) {
            let stands = self.stands_for_its_name(ino);
            match self.fs.inodes.getattr(ino) {
                Ok(attributes) => {
                    assert_eq!(attributes.ino, ino);
                    self.expect_identity(ino, attributes.kind);
                }
                Err(FsError::Gone) => assert!(!stands, "{:?} is lost", self.identities[&ino]),
                Err(error) => panic!("{:?}: {error}", self.identities[&ino]),
            }
        }
    }

    fn expect_identity(&self, ino: u64, kind: FileKind) {
        let known = &self.identities[&ino];
        let now = self.identify(ino, kind, known.path.clone());
        assert_eq!(*known, now, "inode {ino} stands for two things");
        let path = self.fs.inodes.path_of(ino).unwrap();
        assert_eq!(
            known.path.escape_ascii().to_string(),
            path.escape_ascii().to_string()
        );
    }

    /// Returns whether the number still belongs to its name in the union.
    fn stands_for_its_name(&self, ino: u64) -> bool {
        let path = &self.identities[&ino].path;
        if path.starts_with(b".p2pfs/peers/") {
            return false;
        }
        let mut at = ROOT_INO;
        let mut counted = vec![];
        for name in path.split(|byte| *byte == b'/') {
            match self.fs.inodes.lookup(at, name, 0) {
                Ok(entry) => at = entry.attributes.ino,
                Err(_) => break,
            }
            counted.push(at);
        }
        let is_whole = counted.len() == path.split(|byte| *byte == b'/').count();
        counted
            .iter()
            .for_each(|ino| self.fs.inodes.forget(*ino, 1));
        is_whole && at == ino
    }
}
