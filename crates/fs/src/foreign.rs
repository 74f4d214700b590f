//! Names of the root that only a foreign peer may have. `stat` and `open` of these are the only
//! metadata calls that wait for the network.
//!
//! Such a name is an inode at once, so no lookup locks the directory while a foreign peer is
//! queried. GETATTR and OPEN of that inode wait instead, by a reply that is called later. If a node
//! shares the name in the meantime, the wait ends, and the kernel looks the name up again. The
//! properties of the file are read from [`ForeignFiles`] each time, because no hash identifies its
//! version. The kernel therefore does not cache its name, its attributes or its bytes.
//!
//! [`ForeignFiles`]: super::traits::ForeignFiles

use std::sync::Arc;

use super::attributes::Attributes;
use super::error::FsError;
use super::files::{Caching, OpenReply};
use super::handles::{FileState, Handle, Handles, OpenFile};
use super::inode::Node;
use super::inodes::Inodes;
use super::namespace::{MountNamespace, in_root};
use super::possible::PossibleNames;
use super::stat::AttributeReader;
use super::traits::{ForeignFile, LaterReply, OpenContent};

/// The inodes of files that only foreign peers may have.
pub struct ForeignInodes {
    pub(super) namespace: Arc<MountNamespace>,
    pub(super) inodes: Arc<Inodes>,
    pub(super) handles: Arc<Handles>,
    pub(super) attributes: Arc<AttributeReader>,
    pub(super) possible: Arc<PossibleNames>,
}

impl ForeignInodes {
    /// Returns whether GETATTR and OPEN of this inode may have to wait.
    pub fn is_foreign(&self, ino: u64) -> bool {
        self.name_of(ino).is_some()
    }

    /// Replies with the attributes, after querying the foreign peers for the user `asker` if the
    /// file is not known. Without `asker`, for a program that gets cached bytes only, an unknown
    /// name is absent.
    pub fn getattr(
        &self,
        ino: u64,
        handle: Option<u64>,
        asker: Option<u32>,
        reply: LaterReply<Attributes>,
    ) {
        let Some(name) = self.name_of(ino) else {
            return reply(Err(FsError::NotFound));
        };
        if let Some(open) = handle.and_then(|number| self.open_file(number)) {
            return reply(Ok(self.attributes.foreign_attributes(ino, &open)));
        }
        if let Some(known) = self.namespace.known_foreign(&name) {
            return reply(Ok(self.attributes.foreign_attributes(ino, &known)));
        }
        let attributes = self.attributes.clone();
        let query = self.possible.begin_query(&name, reply);
        let answer = move |found: Result<ForeignFile, FsError>| {
            let found = found.map(|file| attributes.foreign_attributes(ino, &file));
            query.waiting.reply(|| found);
        };
        match (self.namespace.content.foreign(), asker) {
            (Some(foreign), Some(uid)) => foreign.find(&name, uid, Box::new(answer)),
            _ => answer(Err(FsError::NotFound)),
        }
    }

    /// Opens the file for reading, after querying the foreign peers for a user if it is not known.
    pub fn open(&self, ino: u64, flags: i32, uid: u32, reply: LaterReply<OpenReply>) {
        if let Err(error) = super::files::check_reading(flags) {
            return reply(Err(error));
        }
        let Some(name) = self.name_of(ino) else {
            return reply(Err(FsError::NotFound));
        };
        let handles = self.handles.clone();
        let query = self.possible.begin_query(&name, reply);
        let opened = move |opened: Result<(Arc<dyn OpenContent>, u64), FsError>| {
            query.waiting.reply(|| {
                let (content, size_bytes) = opened?;
                let state = FileState::Version { size_bytes };
                let handle = Handle::File(OpenFile::new(ino, content, state));
                let handle = handles.insert(handle)?;
                Ok(OpenReply {
                    handle,
                    caching: Caching::Direct,
                })
            });
        };
        match self.namespace.content.foreign() {
            Some(foreign) => foreign.open(&name, uid, Box::new(opened)),
            None => opened(Err(FsError::NotFound)),
        }
    }

    fn name_of(&self, ino: u64) -> Option<Box<[u8]>> {
        let inode = self.inodes.get(ino)?;
        match inode.node {
            Node::Foreign => in_root(&inode.name).map(Box::from),
            _ => None,
        }
    }

    /// Returns the file of an open handle. Its size stays the same even after its peer is gone.
    fn open_file(&self, handle: u64) -> Option<ForeignFile> {
        match &*self.handles.get(handle).ok()? {
            Handle::File(open) => {
                let size_bytes = match open.state {
                    FileState::Version { size_bytes } => size_bytes,
                    _ => return None,
                };
                let known = self.name_of(open.ino);
                let known = known.and_then(|name| self.namespace.known_foreign(&name));
                Some(ForeignFile {
                    size_bytes,
                    mtime: known
                        .as_ref()
                        .map_or(self.namespace.started, |file| file.mtime),
                    cached_bytes: known.map_or(0, |file| file.cached_bytes),
                    holder: String::new(),
                })
            }
            _ => None,
        }
    }
}
