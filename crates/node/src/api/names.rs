//! Lookups of names in the folder: in the namespace that the event loop published, and among the
//! known files of foreign peers. Mostly answered from memory.
//!
//! The folder lists a name ([`NameLookup::entry`]), or it does not ([`NameLookup::why_unlisted`]).
//! [`NameLookup::why`] answers both, with all versions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::FileError;
use super::contents::{Contents, collect, collect_hidden, within_peer};
use super::links::{follow, through};
use crate::events::{Audience, EventLog};
use crate::foreign::ForeignPeers;
use crate::names::Names;
use crate::published::Published;
use p2pfs_catalogue::{Child, Found, Rule, Version, View, hidden_by_owner};
use p2pfs_content::shares::LeftOut;
use p2pfs_content::{ContentStore, Origin};
use p2pfs_fs::{FileVersion, ForeignFile, ForeignNames, Hidden};
use p2pfs_membership::MemberState;
use p2pfs_proto::wire::native::record::{Kind, Timestamp};
use p2pfs_transfer::Fetcher;
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::NodeId;
use p2pfs_types::path::{ARRIVING, SharedPath};

/// Number of names read from a directory at once.
const CHILDREN_BATCH: usize = 1000;
/// Maximum interval between lookups of an awaited name. Some changes of the namespace cause no
/// event.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// A name of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Path from the root of the namespace.
    pub path: SharedPath,
    /// A file (with size, hash and executable bit), a directory or a link.
    pub kind: Kind,
    /// Modification time; for a directory, the time of its newest change.
    pub mtime: Timestamp,
    /// How many bytes of the file this node can read without another node; 0 for directories and
    /// links.
    pub cached_bytes: u64,
}

/// A listed name of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameEntry {
    /// A name that a node of the cluster shares.
    Shared(Listed),
    /// A name of the root that no node shares and a foreign peer is known to have.
    Foreign(SharedPath, ForeignFile),
}

impl NameEntry {
    /// Returns the path from the root of the folder.
    pub fn path(&self) -> &SharedPath {
        match self {
            Self::Shared(listed) => &listed.path,
            Self::Foreign(path, _) => path,
        }
    }

    /// Returns how many bytes of the file this node can read without another node or peer.
    pub fn cached_bytes(&self) -> u64 {
        match self {
            Self::Shared(listed) => listed.cached_bytes,
            Self::Foreign(_, file) => file.cached_bytes,
        }
    }
}

/// The reason why the folder does not list a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyUnlisted {
    /// This node has the file and does not share it.
    LeftOut(LeftOut),
    /// Only the owner's files are listed at and below an owned path, and the owner has none here.
    Owned {
        /// The owned path: the name itself or a directory above it.
        owned: SharedPath,
        /// The owner.
        owner: NodeId,
    },
    /// This node shares the file and lists it once it is hashed.
    BeingRead,
    /// Nodes share versions of it, and this rule leaves the first of them unlisted.
    Rule(Rule),
    /// No node shares it.
    Unshared,
}

/// Some names of a directory.
#[derive(Clone, Debug)]
pub struct Page {
    /// The entries, in the order of the names' bytes.
    pub entries: Vec<NameEntry>,
    /// The last name that was examined, if more names may follow. It is the `after` of the next
    /// page.
    pub more_behind: Option<Box<[u8]>>,
}

/// A name in a directory below `.p2pfs`, the hidden directory of a mount.
#[derive(Clone, Debug)]
pub struct HiddenEntry {
    /// The last part of the path.
    pub name: Box<[u8]>,
    /// A file (with size, hash and executable bit), a directory or a link.
    pub kind: Kind,
    /// Modification time.
    pub mtime: Timestamp,
    /// How many bytes of the file this node can read without another node.
    pub cached_bytes: u64,
}

/// The reasons why a name shows its current version, or is not listed.
#[derive(Clone, Debug)]
pub struct Why {
    /// The entry of the folder, or the reason why there is none.
    pub entry: Result<NameEntry, WhyUnlisted>,
    /// Every known version, the winner first, each with the rule that decided about it.
    pub versions: Vec<Version>,
    /// The node or peer that sent the listed file, as stated by the node that received it.
    pub sent_by: Option<String>,
    /// The effect of a read now.
    pub next_read: NextRead,
    /// The owner of the path, if it has one. Then only the owner's versions are listed.
    pub owner: Option<NodeId>,
    /// Why this node does not share its own file of this name, if it has one.
    pub left_out: Option<LeftOut>,
}

/// The effect of a read of a name now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextRead {
    /// The read fails: the name is not listed.
    Nothing,
    /// The read uses the foreign peer that has the file.
    Foreign,
    /// There is nothing to fetch: the name is a directory or a link.
    NoFile,
    /// The read uses this node's own share.
    OwnShare,
    /// The read uses the cache.
    Cache,
    /// The read asks other nodes, because no other node is listed as a holder.
    AskAround,
    /// The read fails: this node lacks some of the bytes, and no known holder is alive.
    HoldersGone,
    /// The read requests the missing bytes from a holder.
    Fetch {
        /// Missing bytes.
        missing_bytes: u64,
        /// Size of the file in bytes.
        size_bytes: u64,
        /// The node that is probably asked first.
        first: NodeId,
    },
}

impl Why {
    /// Returns the rule of the winning version. If no version is listed, returns the rule that
    /// leaves the first one unlisted.
    pub fn rule(&self) -> Rule {
        self.versions.first().map_or(Rule::Only, |first| first.rule)
    }
}

/// Lookups of names in the folder.
/// [`Node::names`](crate::Node::names) returns it. Clones share their state.
#[derive(Clone)]
pub struct NameLookup {
    pub(crate) me: NodeId,
    pub(crate) published: Published,
    pub(crate) foreign: Option<Arc<dyn ForeignPeers>>,
    pub(crate) labels: Names,
    pub(crate) store: ContentStore,
    pub(crate) fetcher: Fetcher,
    pub(crate) events: EventLog,
}

impl NameLookup {
    /// Returns the entry of a path, if the folder lists it.
    pub fn entry(&self, path: &SharedPath) -> Option<NameEntry> {
        self.entry_in(&self.view(), path)
    }

    fn entry_in(&self, view: &View, path: &SharedPath) -> Option<NameEntry> {
        if let Some(found) = view.lookup(path) {
            return Some(NameEntry::Shared(self.listed(path.clone(), found)));
        }
        let file = self.foreign_in(view).file(path)?;
        Some(NameEntry::Foreign(path.clone(), file))
    }

    /// Returns why the folder does not list a path. Only [`Audience::Owner`] may know that this node
    /// has a file that it does not share. Reads the disk.
    pub fn why_unlisted(&self, path: &SharedPath, audience: Audience) -> WhyUnlisted {
        if let Some(left_out) = self.left_out(path, audience) {
            return WhyUnlisted::LeftOut(left_out);
        }
        let view = self.view();
        let is_ours = self.is_in_own_share(path);
        match view.owners().owned_above(path) {
            // This node lists its own file soon, so the owner is not the reason.
            Some((_, owner)) if owner == self.me && is_ours => WhyUnlisted::BeingRead,
            Some((owned, owner)) if is_ours || view.is_known(path) => {
                WhyUnlisted::Owned { owned, owner }
            }
            None if is_ours => WhyUnlisted::BeingRead,
            _ => match view.versions(path).first() {
                Some(version) => WhyUnlisted::Rule(version.rule),
                None => WhyUnlisted::Unshared,
            },
        }
    }

    fn left_out(&self, path: &SharedPath, audience: Audience) -> Option<LeftOut> {
        let may_know = audience == Audience::Owner;
        may_know.then(|| self.store.shares().left_out_at(path).into_iter().next())?
    }

    fn foreign_in<'a>(&'a self, view: &'a View) -> ForeignNames<'a> {
        let peers = self.foreign.as_ref();
        ForeignNames::new(view, peers.and_then(|peers| peers.files()))
    }

    /// Returns the current entry of a path that a node of the cluster shares.
    ///
    /// # Errors
    /// [`FileError::NotFound`].
    pub fn find(&self, path: &SharedPath) -> Result<Listed, FileError> {
        let found = self.found(path)?;
        Ok(self.listed(path.clone(), found))
    }

    /// Returns all entries of a directory, in the order of the names' bytes.
    ///
    /// # Errors
    /// [`FileError::NotFound`], and [`FileError::WrongKind`] if the path is not a directory.
    pub fn list(&self, dir: &SharedPath) -> Result<Vec<NameEntry>, FileError> {
        let mut all = self.list_page(dir, None, CHILDREN_BATCH)?;
        while let Some(last) = all.more_behind {
            let next = self.list_page(dir, Some(&last), CHILDREN_BATCH)?;
            all.entries.extend(next.entries);
            all.more_behind = next.more_behind;
        }
        Ok(all.entries)
    }

    /// Returns at most `limit` entries of a directory, beginning after the name `after`.
    ///
    /// # Errors
    /// As [`NameLookup::list`].
    pub fn list_page(
        &self,
        dir: &SharedPath,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, FileError> {
        let found = self.found(dir)?;
        if !matches!(found.kind, Kind::Directory) {
            return Err(wrong_kind(dir, &found.kind));
        }
        let view = self.view();
        let children = view.children(dir, after, limit);
        let last = children.last().filter(|_| children.len() == limit);
        let mut more_behind = last.map(|last| last.name.clone());
        // A name whose path would be too long is not listed.
        let named = children
            .into_iter()
            .filter_map(|child| Some((dir.join(&child.name).ok()?, child.found)));
        let shared = named.map(|(path, found)| NameEntry::Shared(self.listed(path, found)));
        let mut entries: Vec<NameEntry> = shared.collect();
        if dir.is_root() {
            let foreign = self.foreign_in(&view);
            let names = foreign.names();
            let behind = names.filter(|path| after.is_none_or(|after| path.as_bytes() > after));
            entries.extend(behind.filter_map(|path| {
                let file = foreign.file(&path)?;
                Some(NameEntry::Foreign(path, file))
            }));
            entries.sort_by(|one, other| one.path().as_bytes().cmp(other.path().as_bytes()));
            if entries.len() > limit {
                entries.truncate(limit);
                more_behind = entries.last().map(|last| last.path().file_name().into());
            }
        }
        Ok(Page {
            entries,
            more_behind,
        })
    }

    /// Returns the different contents of a file, or of all files beneath a directory. The path
    /// itself may lead through links. Links inside a directory are skipped.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::TooMany`], [`FileError::LinkToNothing`],
    /// [`FileError::TooManyLinks`].
    pub fn contents_of(&self, path: &SharedPath) -> Result<Contents, FileError> {
        let mut contents = Contents::new();
        let (path, found) = self.follow_links(path)?;
        collect(&self.view(), path, &found, &mut contents)?;
        Ok(contents)
    }

    /// Returns the different contents at or beneath a path below `.p2pfs`. Each has a path within
    /// the namespace. Returns `None` if the path is not below `.p2pfs`, or if it is neither a
    /// shared file nor a directory.
    ///
    /// # Errors
    /// [`FileError::TooMany`].
    pub fn hidden_contents(&self, path: &[u8]) -> Result<Option<Contents>, FileError> {
        let mut contents = Contents::new();
        match self.hidden(path) {
            Some(Hidden::File(file)) => {
                let name = within_peer(path);
                let name = name.or_else(|| self.names_of(&file.hash, 1).pop());
                let name = name.unwrap_or_else(SharedPath::root);
                contents.insert(file.hash, (file.size_bytes, name));
            }
            Some(Hidden::Directory) => collect_hidden(&self.view(), path, &mut contents)?,
            _ => return Ok(None),
        }
        Ok(Some(contents))
    }

    /// Returns files of this node's shares in a directory that are not listed yet because they wait
    /// to be hashed. If there are many, returns some of them.
    pub fn unread_in(&self, dir: &SharedPath) -> Vec<SharedPath> {
        let view = self.view();
        let unread = self.store.shares().unread_in(dir).into_iter();
        unread
            .filter(|path| view.lookup(path).is_none() && self.may_list(path))
            .collect()
    }

    /// Returns whether a name exists in a share of this node and is not left out in any share. Reads
    /// the disk.
    fn is_in_own_share(&self, path: &SharedPath) -> bool {
        let is_arriving = path.components().any(|name| name == ARRIVING.as_bytes());
        if path.is_root() || is_arriving || !self.store.shares().left_out_at(path).is_empty() {
            return false;
        }
        let mut shares = self.store.shares().list().into_iter();
        shares.any(|share| self.store.shares().stat(share.index, path).is_ok())
    }

    /// Returns whether no other node owns a path.
    fn may_list(&self, path: &SharedPath) -> bool {
        let owned = self.view().owners().owned_above(path);
        owned.is_none_or(|(_, owner)| owner == self.me)
    }

    /// Returns the live nodes that have a complete content. May include this node.
    pub fn holders(&self, hash: &ContentHash) -> Vec<NodeId> {
        self.view().contents().holders(hash)
    }

    /// Returns up to `limit` paths under which a content is listed.
    pub fn names_of(&self, hash: &ContentHash, limit: usize) -> Vec<SharedPath> {
        self.view().contents().names_of(hash, limit)
    }

    /// Returns the object at a path if the path leads below `.p2pfs`, else `None`. `path` begins at
    /// the root of the mount.
    pub fn hidden(&self, path: &[u8]) -> Option<Hidden> {
        p2pfs_fs::hidden(&self.view(), path)
    }

    /// Returns at most `limit` names of a directory below `.p2pfs`, in the order of their bytes,
    /// beginning after the name `after`. Returns no names if `dir` is not such a directory. Leaves
    /// out contents by their hashes and files that the mount generates.
    pub fn list_hidden(&self, dir: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<HiddenEntry> {
        let children = p2pfs_fs::hidden_children(&self.view(), dir, after, limit);
        let entry = |child: Child| HiddenEntry {
            cached_bytes: self.cached_of(&child.found),
            name: child.name,
            kind: child.found.kind,
            mtime: child.found.mtime,
        };
        children.into_iter().map(entry).collect()
    }

    /// Returns whether a node shares anything at or below a path, listed or not.
    pub fn is_known(&self, path: &SharedPath) -> bool {
        self.view().is_known(path)
    }

    /// Returns for each author how many listed files and links would be hidden at and below a path
    /// if `owner` became its owner. Takes some time for a large directory.
    pub fn hidden_by_owner(&self, path: &SharedPath, owner: &NodeId) -> BTreeMap<NodeId, u64> {
        hidden_by_owner(&self.view(), path, owner)
    }

    /// Returns whether a node is live, as the folder counts it.
    pub fn is_live(&self, node: &NodeId) -> bool {
        self.published.view.load().is_live(node)
    }

    /// Returns the node with this name, live or not, if it has listed anything.
    pub fn author_called(&self, name: &str) -> Option<NodeId> {
        self.view().node_called(name)
    }

    /// Returns the name of the node or peer that sent a file, as stated by the node that received
    /// it. Returns `None` if no sender is recorded.
    pub fn sent_by(&self, path: &SharedPath, hash: &ContentHash) -> Option<String> {
        let sender = self.view().sent_by(path, hash)?;
        Some(self.labels.of_sender(&sender))
    }

    /// Returns every version of a name, with the rule that decided about it, and why the name is
    /// listed or not. [`NameLookup::why_unlisted`] says what `audience` means. Reads the disk.
    pub fn why(&self, path: &SharedPath, audience: Audience) -> Why {
        let view = self.view();
        let found = view.lookup(path);
        let entry = self.entry_in(&view, path);
        let sent_by = found.as_ref().and_then(|found| match &found.kind {
            Kind::File { hash, .. } => self.sent_by(path, hash),
            Kind::Directory | Kind::Symlink { .. } => None,
        });
        Why {
            next_read: match (&found, &entry) {
                (Some(found), _) => self.next_read(found),
                (None, Some(_)) => NextRead::Foreign,
                (None, None) => NextRead::Nothing,
            },
            entry: entry.ok_or_else(|| self.why_unlisted(path, audience)),
            owner: view.owners().owner_of(path),
            versions: view.versions(path),
            left_out: self.left_out(path, audience),
            sent_by,
        }
    }

    fn next_read(&self, found: &Found) -> NextRead {
        let Kind::File {
            hash, size_bytes, ..
        } = found.kind
        else {
            return NextRead::NoFile;
        };
        let here = self.store.here(&ContentKey::new(hash, size_bytes));
        if found.own.is_some() || here.origin == Some(Origin::Shared) {
            return NextRead::OwnShare;
        }
        if here.bytes >= size_bytes {
            return NextRead::Cache;
        }
        let mut holders = self.holders(&hash);
        holders.retain(|node| *node != self.me);
        let is_known = !holders.is_empty();
        holders.retain(|node| self.may_answer(node));
        if is_known && holders.is_empty() {
            return NextRead::HoldersGone;
        }
        let rates = self.fetcher.peers();
        let mut known = rates.iter().map(|rate| rate.node);
        let known_first = known.find(|node| holders.contains(node));
        match known_first.or(holders.first().copied()) {
            Some(first) => NextRead::Fetch {
                missing_bytes: size_bytes - here.bytes,
                size_bytes,
                first,
            },
            None => NextRead::AskAround,
        }
    }

    /// Returns whether a node is alive, or is suspected to be dead and may still contradict.
    fn may_answer(&self, node: &NodeId) -> bool {
        let members = self.published.members.load();
        let state = members.iter().find(|it| it.status.member.node == *node);
        state.is_some_and(|it| matches!(it.status.state, MemberState::Alive | MemberState::Suspect))
    }

    /// Waits until a path is listed. Has no deadline of its own: see `tokio::time::timeout`.
    /// Returns `None` if the node ends before.
    pub async fn wait_for(&self, path: &SharedPath) -> Option<Listed> {
        // Subscribed before the first lookup, so that no change is missed.
        let mut events = self.events.follow();
        loop {
            if let Ok(listed) = self.find(path) {
                return Some(listed);
            }
            // No event is sent for a directory without files.
            match tokio::time::timeout(LOOK_PERIOD, events.next()).await {
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => return None,
            }
        }
    }

    pub(super) fn found(&self, path: &SharedPath) -> Result<Found, FileError> {
        let found = self.view().lookup(path);
        found.ok_or_else(|| FileError::NotFound { path: path.clone() })
    }

    /// Returns the version of a file that its name shows now. Follows links.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::WrongKind`] if the path is not a file,
    /// [`FileError::LinkToNothing`] and [`FileError::TooManyLinks`].
    pub fn version(&self, path: &SharedPath) -> Result<FileVersion, FileError> {
        let (path, found) = self.follow_links(path)?;
        FileVersion::found(&path, &found).ok_or_else(|| wrong_kind(&path, &found.kind))
    }

    /// Returns the entry to which a path leads, and the name under which that entry is listed. If
    /// the path itself is listed and is not a link, returns the entry of the path.
    ///
    /// # Errors
    /// [`FileError::NotFound`]; [`FileError::LinkToNothing`] if a link leads nowhere or out of the
    /// namespace; [`FileError::TooManyLinks`] if it leads through more than 40 links.
    fn follow_links(&self, path: &SharedPath) -> Result<(SharedPath, Found), FileError> {
        let view = self.view();
        let meant = follow(path, |path| Some(view.lookup(path)?.kind))?;
        let found = view.lookup(&meant);
        let found = found.ok_or_else(|| FileError::NotFound { path: path.clone() })?;
        Ok((meant, found))
    }

    /// Returns the path with the links among its directories resolved. Does not follow a link that
    /// is the last name, as lstat(2). Returns the path unchanged if it is listed, or if its
    /// directory leads nowhere.
    pub fn through_links(&self, path: &SharedPath) -> SharedPath {
        let view = self.view();
        through(path, |path| Some(view.lookup(path)?.kind))
    }

    fn listed(&self, path: SharedPath, found: Found) -> Listed {
        Listed {
            path,
            cached_bytes: self.cached_of(&found),
            kind: found.kind,
            mtime: found.mtime,
        }
    }

    fn cached_of(&self, found: &Found) -> u64 {
        match &found.kind {
            Kind::File { size_bytes, .. } if found.own.is_some() => *size_bytes,
            Kind::File {
                hash, size_bytes, ..
            } => {
                let content = ContentKey::new(*hash, *size_bytes);
                self.store.here(&content).bytes
            }
            Kind::Directory | Kind::Symlink { .. } => 0,
        }
    }

    /// Returns the current namespace.
    pub(super) fn view(&self) -> Arc<View> {
        self.published.view.load_full()
    }
}

fn wrong_kind(path: &SharedPath, kind: &Kind) -> FileError {
    let what = match kind {
        Kind::File { .. } => "a file",
        Kind::Directory => "a directory",
        Kind::Symlink { .. } => "a link",
    };
    let path = path.clone();
    FileError::WrongKind { path, what }
}
