//! Open files in the model: reads that reach the filesystem, and reads that cached pages answer.

use std::os::unix::fs::{FileExt, MetadataExt};

use p2pfs_fs::{Caching, FileKind, FsError, Reach, ReadStep};

use super::{Kernel, OpenFile, PAGE_BYTES};
use crate::kernel_caches::world::stored;

impl Kernel {
    /// Opens a file, and asserts the kernel's rule about opens of one inode that may coexist.
    pub(crate) fn open(&mut self, ino: u64) {
        let kind = self.identities[&ino].kind;
        if kind != FileKind::Regular {
            return;
        }
        let others: Vec<Caching> = (self.files.iter())
            .filter(|it| it.ino == ino)
            .map(|it| it.caching)
            .collect();
        let backed = |it: &Caching| matches!(it, Caching::Backed(_));
        let opened = match self.fs.files.open(ino, libc::O_RDONLY, Reach::Everything) {
            Ok(opened) => opened,
            Err(FsError::Gone) if others.iter().any(backed) => return,
            Err(error) => panic!("open of {:?}: {error}", self.identities[&ino]),
        };
        let fits = others.iter().all(|other| match (other, opened.caching) {
            (Caching::Backed(one), Caching::Backed(two)) => *one == two,
            (Caching::Backed(_), _) | (_, Caching::Backed(_)) => false,
            // Pages of a version cannot coexist with bytes that change under the same inode.
            (one, two) => *one == two,
        });
        assert!(
            fits,
            "{others:?} are open of {:?}, then {:?}",
            self.identities[&ino], opened.caching
        );
        assert!(self.passthrough || !backed(&opened.caching));
        let live = self.world.take_last_opened();
        let live = if others.is_empty() {
            live
        } else {
            // A later opener reads the same file as the earlier ones.
            live.and_then(|_| {
                let first = self.files.iter().find(|it| it.ino == ino);
                first.and_then(|first| first.live.clone())
            })
        };
        let hash = self.identities[&ino].version.clone();
        self.files.push(OpenFile {
            ino,
            handle: opened.handle,
            caching: opened.caching,
            live,
            hash: String::from_utf8(hash).unwrap(),
        });
    }

    /// Reads a range of a file, as an ordinary read or through a mapping.
    pub(crate) fn read(&mut self, nth: usize, offset: u64, length: usize, mapped: bool) {
        if self.files.is_empty() {
            return;
        }
        let at = nth % self.files.len();
        let file = &self.files[at];
        let expected = |offset: u64, length: usize| -> Vec<u8> {
            let all = match &file.live {
                Some(live) => {
                    let mut bytes = vec![0; live.metadata().unwrap().size() as usize];
                    live.read_exact_at(&mut bytes, 0).unwrap();
                    bytes
                }
                None => stored(&file.hash.parse().unwrap()).bytes.clone(),
            };
            let start = (offset as usize).min(all.len());
            all[start..(start + length).min(all.len())].to_vec()
        };
        let wanted = expected(offset, length);
        let got = match file.caching {
            Caching::Backed(backing) => {
                let mut bytes = vec![0; length];
                let got = self.backings.get(backing).read_at(&mut bytes, offset);
                bytes.truncate(got.unwrap());
                bytes
            }
            Caching::Direct if !mapped => self.ask(at, offset, length),
            _ => self.read_pages(at, offset, wanted.len(), mapped),
        };
        let file = &self.files[at];
        assert!(
            got == wanted,
            "{:?} reads other bytes than it opened: {} at {offset} of {:?}",
            file.caching,
            got.len(),
            self.identities[&file.ino]
        );
    }

    fn ask(&self, at: usize, offset: u64, length: usize) -> Vec<u8> {
        let handle = self.fs.files.handle(self.files[at].handle).unwrap();
        let mut bytes = vec![0; length];
        let reach = Reach::Everything;
        match handle.read_now(offset, &mut bytes, reach).unwrap() {
            ReadStep::Done(got) => bytes.truncate(got),
            ReadStep::Wait(range) => {
                let (sender, receiver) = std::sync::mpsc::channel();
                let reply = Box::new(move |result| sender.send(result).unwrap());
                handle.read(range, reach, reply);
                bytes = receiver.try_recv().unwrap().unwrap().to_vec();
            }
        }
        bytes
    }

    /// Reads through the pages of the inode. A mapping of a direct file drops them first
    /// (`fuse_file_mmap`), but other readers can find the pages that it reads in.
    fn read_pages(&mut self, at: usize, offset: u64, length: usize, mapped: bool) -> Vec<u8> {
        let ino = self.files[at].ino;
        if mapped && self.files[at].caching == Caching::Direct {
            self.inode(ino).pages.clear();
        }
        let end = offset as usize + length;
        let first = offset as usize / PAGE_BYTES;
        let mut bytes = vec![];
        for page in first..end.div_ceil(PAGE_BYTES) {
            let known = self.inode(ino).pages.get(&(page as u64)).cloned();
            let there = match known {
                Some(there) => there,
                None => self.ask(at, (page * PAGE_BYTES) as u64, PAGE_BYTES),
            };
            bytes.extend(&there);
            self.inode(ino).pages.insert(page as u64, there);
        }
        let start = offset as usize - first * PAGE_BYTES;
        bytes[start.min(bytes.len())..(start + length).min(bytes.len())].to_vec()
    }

    pub(crate) fn close(&mut self, nth: usize) {
        if !self.files.is_empty() {
            let file = self.files.swap_remove(nth % self.files.len());
            self.fs.files.release(file.handle);
            self.forget_unused();
        }
    }

    pub(crate) fn close_files(&mut self) {
        while !self.files.is_empty() {
            self.close(0);
        }
        self.streams.clear();
        self.forget_unused();
    }
}
