//! Listings: what is in a directory, and where a listing goes on.
//!
//! The kernel opens and closes directories by itself, so that a listing that it keeps costs no
//! call. A listing that it asks for in parts is found again by its directory's number: cookies mean
//! the same in every one of them.

use std::sync::Arc;
use std::time::Duration;

use super::attributes::{Attributes, FileKind};
use super::directory::{DOT_COOKIE, DOT_DOT_COOKIE, Listing};
use super::error::FsError;
use super::filesystem::Filesystem;
use super::inode::{Inode, Name, Node};
use super::names::{self, Listed};
use super::traits::{Content, FileVersion, LiveAttributes, LiveLook, Stale};
use crate::catalogue::View;
use crate::wire::native::record::ShareIndex;

/// How long the kernel may believe what a listing says of an own file, whose attributes are live:
/// long enough for the `stat` that follows at once in `ls -l`.
pub const LISTED_LIVE_LIFETIME: Duration = Duration::from_secs(1);

/// One name of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryEntry<'a> {
    /// The inode's number.
    pub ino: u64,
    /// The listing goes on after this name from here.
    pub cookie: u64,
    /// What it is.
    pub kind: FileKind,
    pub name: &'a [u8],
}

/// Takes entries until it says that it is full; the entry that it says so for was not taken.
pub type Sink<'a> = &'a mut dyn FnMut(DirectoryEntry<'_>) -> bool;
/// The same, with attributes.
pub type PlusSink<'a> = &'a mut dyn FnMut(DirectoryEntry<'_>, &Attributes) -> bool;

impl Filesystem {
    /// Lists names from a cookie on (0: from the start), without counting lookups.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`] for anything else.
    pub fn readdir(&self, ino: u64, cookie: u64, full: Sink<'_>) -> Result<(), FsError> {
        let view = self.view();
        let reader = self.reader(&view, ino, cookie)?;
        for (dot, _) in self.dots(&view, &reader) {
            if dot.cookie > cookie && full(dot) {
                return Ok(());
            }
        }
        let mut is_end = true;
        for (cookie, name) in reader.listing.after(cookie.max(DOT_DOT_COOKIE)) {
            // What vanished since the listing was taken is left out.
            let Some((child, listed)) = self.child(&view, &reader, name) else {
                continue;
            };
            let kind = listed.node.kind();
            let ino = Inode {
                name: child,
                node: listed.node,
            }
            .number();
            if full(DirectoryEntry {
                ino,
                cookie,
                kind,
                name,
            }) {
                return Ok(());
            }
            is_end = false;
        }
        if is_end {
            self.end_of(&reader);
        }
        Ok(())
    }

    /// Lists names with their attributes from a cookie on, counting a lookup of each name that was
    /// taken (not of the dots).
    ///
    /// # Errors
    /// As [`Filesystem::readdir`].
    pub fn readdir_plus(&self, ino: u64, cookie: u64, full: PlusSink<'_>) -> Result<(), FsError> {
        let view = self.view();
        let reader = self.reader(&view, ino, cookie)?;
        for (dot, attributes) in self.dots(&view, &reader) {
            if dot.cookie > cookie && full(dot, &attributes) {
                return Ok(());
            }
        }
        let mut is_end = true;
        let mut looks = LiveLooks::default();
        for (cookie, name) in reader.listing.after(cookie.max(DOT_DOT_COOKIE)) {
            let Some((child, listed)) = self.child(&view, &reader, name) else {
                continue;
            };
            let is_own = matches!(&listed.node, Node::File(file) if file.own.is_some());
            let look = |file: &FileVersion| looks.look(&*self.content, file);
            let attributes = self.attributes_by(&child, &listed, look);
            let entry = self.enter_with(Some(ino), child, listed, attributes);
            let mut attributes = entry.attributes;
            if is_own {
                reader.listing.note_live();
                attributes.lifetime = LISTED_LIVE_LIFETIME;
            }
            let Attributes {
                ino: child, kind, ..
            } = attributes;
            if full(
                DirectoryEntry {
                    ino: child,
                    cookie,
                    kind,
                    name,
                },
                &attributes,
            ) {
                self.forget(child, 1);
                return Ok(());
            }
            is_end = false;
        }
        if is_end {
            self.end_of(&reader);
        }
        Ok(())
    }

    /// A reader came to the end. Names of own files that the kernel kept would each cost a
    /// question the next time, since their attributes hold for a moment: it is to list them anew,
    /// with these.
    fn end_of(&self, reader: &Reader) {
        self.listings.forget(reader.ino);
        if reader.listing.shows_live() {
            self.invalidate(Stale::Listing { ino: reader.ino });
        }
    }

    /// The directory and its names: as they were when a reader of it last began.
    fn reader(&self, view: &View, ino: u64, cookie: u64) -> Result<Reader, FsError> {
        let inode = self.directory(ino)?;
        let taken = self.listings.get(ino).filter(|_| cookie != 0);
        let listing = taken.unwrap_or_else(|| {
            let taken = Arc::new(Listing::new(self.names_in(view, &inode.name)));
            self.listings.put(ino, taken.clone());
            taken
        });
        Ok(Reader {
            ino,
            inode,
            listing,
        })
    }

    fn child(&self, view: &View, reader: &Reader, name: &[u8]) -> Option<(Name, Listed)> {
        let child = names::child(&reader.inode.name, name)?;
        let listed = self.resolve(view, &child)?;
        Some((child, listed))
    }

    fn dots(&self, view: &View, reader: &Reader) -> [(DirectoryEntry<'static>, Attributes); 2] {
        let attributes = |ino: u64, name: &Name| {
            let gone = || Listed::last_known(&Node::Directory, self.started);
            let listed = names::resolve(view, name).unwrap_or_else(gone);
            Attributes {
                ino,
                ..self.attributes(name, &listed)
            }
        };
        let above = names::parent(&reader.inode.name);
        let above_ino = Inode {
            name: above.clone(),
            node: Node::Directory,
        }
        .number();
        let entry = |ino, cookie, name| DirectoryEntry {
            ino,
            cookie,
            kind: FileKind::Directory,
            name,
        };
        [
            (
                entry(reader.ino, DOT_COOKIE, &b"."[..]),
                attributes(reader.ino, &reader.inode.name),
            ),
            (
                entry(above_ino, DOT_DOT_COOKIE, b".."),
                attributes(above_ino, &above),
            ),
        ]
    }
}

/// How the own files of one directory look, each found through its share's directory.
#[derive(Default)]
struct LiveLooks(Vec<(ShareIndex, Option<LiveLook>)>);

impl LiveLooks {
    fn look(&mut self, content: &dyn Content, file: &FileVersion) -> Option<LiveAttributes> {
        let (share, path) = file.own.as_ref()?;
        let known = self.0.iter().position(|(known, _)| known == share);
        let at = known.unwrap_or_else(|| {
            let look = path.parent().and_then(|dir| content.live_in(*share, &dir));
            self.0.push((*share, look));
            self.0.len() - 1
        });
        match &self.0[at].1 {
            Some(look) => look(path.file_name()),
            None => content.live(file),
        }
    }
}

/// A directory and its names.
struct Reader {
    ino: u64,
    inode: Inode,
    listing: Arc<Listing>,
}
