//! Names of the root that only a foreign peer may have. `stat` and `open` of these are the only
//! metadata calls that wait for the network.
//!
//! Such a name is an inode at once, so no lookup locks the directory while a foreign peer is
//! queried. GETATTR and OPEN of that inode wait instead, by a reply that is called later. The
//! properties of the file come from [`ForeignFiles`] each time, because no hash identifies its
//! version. The kernel therefore does not cache its name, its attributes or its bytes.

use std::sync::Arc;
use std::time::Duration;

use super::attributes::{Attributes, Entry, FileKind, blocks};
use super::error::FsError;
use super::files::{Caching, OpenReply};
use super::filesystem::Filesystem;
use super::handles::{FileState, Handle, OpenFile};
use super::inode::{Name, Node, ROOT_INO};
use super::names::{self, ResolvedName};
use super::traits::{ForeignFile, ForeignFiles, LaterReply, OpenContent};
use p2pfs_catalogue::{NameHandle, View};

impl Filesystem {
    /// Returns whether GETATTR and OPEN of this inode may have to wait.
    pub fn is_foreign(&self, ino: u64) -> bool {
        self.foreign_name(ino).is_some()
    }

    /// Replies with the attributes, after querying the foreign peers if the file is not known.
    /// Without `may_ask`, for a program that gets cached bytes only, an unknown name is absent.
    pub fn getattr_foreign(
        self: &Arc<Self>,
        ino: u64,
        handle: Option<u64>,
        may_ask: bool,
        reply: LaterReply<Attributes>,
    ) {
        let Some(name) = self.foreign_name(ino) else {
            return reply(Err(FsError::NotFound));
        };
        if let Some(open) = handle.and_then(|number| self.open_foreign_file(number)) {
            return reply(Ok(self.foreign_attributes(ino, &open)));
        }
        let fs = self.clone();
        let answer = move |found: Result<ForeignFile, FsError>| {
            reply(found.map(|file| fs.foreign_attributes(ino, &file)));
        };
        match (self.known_foreign(&name), self.content.foreign()) {
            (Some(known), _) => answer(Ok(known)),
            (None, Some(foreign)) if may_ask => foreign.find(&name, Box::new(answer)),
            (None, _) => answer(Err(FsError::NotFound)),
        }
    }

    /// Opens the file for reading, after querying the foreign peers if it is not known.
    pub fn open_foreign(self: &Arc<Self>, ino: u64, flags: i32, reply: LaterReply<OpenReply>) {
        if let Err(error) = super::files::check_reading(flags) {
            return reply(Err(error));
        }
        let Some(name) = self.foreign_name(ino) else {
            return reply(Err(FsError::NotFound));
        };
        let fs = self.clone();
        let opened = move |opened: Result<(Arc<dyn OpenContent>, u64), FsError>| {
            reply(opened.and_then(|(content, size_bytes)| {
                let state = FileState::Version { size_bytes };
                let handle = Handle::File(OpenFile::new(ino, content, state));
                let handle = fs.handles.insert(handle)?;
                Ok(OpenReply {
                    handle,
                    caching: Caching::Direct,
                })
            }));
        };
        match self.content.foreign() {
            Some(foreign) => foreign.open(&name, Box::new(opened)),
            None => opened(Err(FsError::NotFound)),
        }
    }

    /// Looks up a name that no native node shares. It is found if a foreign peer has it or may have
    /// it.
    pub(super) fn lookup_foreign(&self, child: Name) -> Result<Entry, FsError> {
        let name = in_root(&child).ok_or(FsError::NotFound)?;
        let foreign = self.content.foreign().ok_or(FsError::NotFound)?;
        if foreign.known(name).is_none() && !foreign.may_have(name) {
            return Err(FsError::NotFound);
        }
        let listed = self.foreign_listed();
        Ok(self.enter(Some(ROOT_INO), child, listed))
    }

    /// Returns what a name stands for, including known foreign files.
    pub(super) fn resolve(&self, view: &View, name: &Name) -> Option<ResolvedName> {
        let native = names::resolve(view, name);
        native.or_else(|| {
            let known = self.known_foreign(in_root(name)?);
            known.map(|_| self.foreign_listed())
        })
    }

    /// Returns the names of a directory, including known foreign files.
    pub(super) fn names_in(&self, view: &View, directory: &Name) -> Vec<NameHandle> {
        let mut children = names::children(view, directory);
        if matches!(directory, Name::Union(path) if path.is_root()) {
            let is_native = |name: &[u8]| {
                let child = names::child(directory, name);
                child.is_none_or(|child| names::resolve(view, &child).is_some())
            };
            let foreign = self.foreign_names().into_iter();
            children.extend(
                foreign
                    .filter(|name| !is_native(name))
                    .map(NameHandle::from),
            );
        }
        children
    }

    /// Returns the attributes of a name in a listing. A file that is not known is shown as empty.
    pub(super) fn foreign_attributes_of(&self, name: &Name) -> Attributes {
        let known = self.foreign_file_of(name);
        let file = known.unwrap_or(ForeignFile {
            size_bytes: 0,
            mtime: self.started,
            cached_bytes: 0,
            holder: String::new(),
        });
        self.foreign_attributes(0, &file)
    }

    /// Returns the known foreign file of this name.
    pub(super) fn foreign_file_of(&self, name: &Name) -> Option<ForeignFile> {
        self.known_foreign(in_root(name)?)
    }

    /// Returns the names of the known foreign files.
    pub(super) fn foreign_names(&self) -> Vec<Box<[u8]>> {
        let foreign = self.content.foreign();
        foreign.map(ForeignFiles::names).unwrap_or_default()
    }

    fn known_foreign(&self, name: &[u8]) -> Option<ForeignFile> {
        self.content.foreign()?.known(name)
    }

    fn foreign_listed(&self) -> ResolvedName {
        ResolvedName::new(Node::Foreign, self.started)
    }

    fn foreign_name(&self, ino: u64) -> Option<Box<[u8]>> {
        let inode = self.inodes.get(ino)?;
        match inode.node {
            Node::Foreign => in_root(&inode.name).map(Box::from),
            _ => None,
        }
    }

    /// Returns the file of an open handle. Its size stays the same even after its peer is gone.
    fn open_foreign_file(&self, handle: u64) -> Option<ForeignFile> {
        match &*self.handles.get(handle).ok()? {
            Handle::File(open) => {
                let size_bytes = match open.state {
                    FileState::Version { size_bytes } => size_bytes,
                    _ => return None,
                };
                let known = self.foreign_name(open.ino);
                let known = known.and_then(|name| self.known_foreign(&name));
                Some(ForeignFile {
                    size_bytes,
                    mtime: known.as_ref().map_or(self.started, |file| file.mtime),
                    cached_bytes: known.map_or(0, |file| file.cached_bytes),
                    holder: String::new(),
                })
            }
            _ => None,
        }
    }

    fn foreign_attributes(&self, ino: u64, file: &ForeignFile) -> Attributes {
        Attributes {
            ino,
            kind: FileKind::Regular,
            size_bytes: file.size_bytes,
            blocks: blocks(file.size_bytes, file.cached_bytes),
            mtime: file.mtime,
            mode: self.file_mode(false),
            links: 1,
            uid: self.options.uid,
            gid: self.options.gid,
            lifetime: Duration::ZERO,
        }
    }
}

/// Returns the name if it is directly in the root. Foreign peers have no folders.
fn in_root(name: &Name) -> Option<&[u8]> {
    match name {
        Name::Union(path) if path.components().count() == 1 => Some(path.as_bytes()),
        _ => None,
    }
}
