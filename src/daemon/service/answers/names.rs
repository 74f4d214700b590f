//! Answers about names: listings, and why a name shows its content.

use super::paths::{mount_path, nothing_hidden, refuse_mount_file, shared_path, trimmed};
use super::trust::escape_or_top;
use super::{Asked, Services, Viewer, calendar_time};
use crate::daemon::control::{
    Answer, EntryKind, Failure, FailureKind, LS_PAGE_MAX_ENTRIES, Listing, LsEntry, NO_HASH, Named,
    Plane, Provenance, VersionInfo, parameters,
};
use p2pfs_node::api::{
    ForeignFile, Hidden, Kind, LeftOut, NameEntry, NextRead, PeerRate, Rule, Timestamp, Version,
    Why, WhyUnlisted,
};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::{SharedPath, escape};

/// Bytes of a MiB, the unit of rates.
const MIB: f64 = (1024 * 1024) as f64;

/// Prefix of the paths of contents by hash.
const BY_HASH: &[u8] = b".p2pfs/by-hash/";

fn not_found(path: &SharedPath) -> Failure {
    let message = format!("{}: no node shares such a name", escape(path.as_bytes()));
    Failure::new(FailureKind::NotFound, message).with_remedy("p2pfs ls shows what there is")
}

impl Answer<Asked> for parameters::Ls {
    async fn answer(self, asked: &mut Asked) -> Result<Listing, Failure> {
        let viewer = asked.viewer;
        asked
            .blocking(move |services| list(services, &self.path, self.after.as_ref(), &viewer))
            .await
    }
}

impl Answer<Asked> for parameters::Why {
    async fn answer(self, asked: &mut Asked) -> Result<Provenance, Failure> {
        let viewer = asked.viewer;
        asked
            .blocking(move |services| why(services, &self.path, &viewer))
            .await
    }
}

/// Lists one page of a directory, or a file itself, as far as the mount lets the caller see it.
pub(super) fn list(
    services: &Services,
    named: &Named,
    after: Option<&Named>,
    viewer: &Viewer,
) -> Result<Listing, Failure> {
    viewer.check_find(named)?;
    let mut listing = list_as(services, named, after, viewer)?;
    if !viewer.access.read {
        // In the mount, hash and holders are extended attributes, which only a program that may
        // read the file can read.
        for entry in &mut listing.entries {
            entry.hash = None;
            entry.holders.clear();
        }
    }
    Ok(listing)
}

fn list_as(
    services: &Services,
    named: &Named,
    after: Option<&Named>,
    viewer: &Viewer,
) -> Result<Listing, Failure> {
    if let Some(hidden) = services.node.names().hidden(trimmed(named)) {
        if matches!(hidden, Hidden::Directory) {
            viewer.check_list(named)?;
        }
        return list_hidden(services, trimmed(named), hidden, after);
    }
    let path = mount_path(services, named)?;
    let after = after.map(shared_path).transpose()?;
    let after_name = after.as_ref().map(SharedPath::file_name);
    let names = services.node.names();
    let Ok(page) = names.list_page(&path, after_name, LS_PAGE_MAX_ENTRIES) else {
        let entry = names.entry(&path);
        let entry = entry.ok_or_else(|| not_listed(services, &path, viewer))?;
        return Ok(only(ls_entry(services, &entry)));
    };
    viewer.check_list(named)?;
    let being_read = match after_name {
        None => names.unread_in(&path),
        Some(_) => Vec::new(),
    };
    let entries = page.entries.iter().map(|it| ls_entry(services, it));
    Ok(Listing {
        entries: entries.collect(),
        being_read: being_read.iter().map(named_as).collect(),
        more: page.more_behind.is_some(),
    })
}

/// Lists a directory below `.p2pfs`, or a single file: a file below `.p2pfs/peers/NODE`, or a
/// content by its hash.
fn list_hidden(
    services: &Services,
    path: &[u8],
    hidden: Hidden,
    after: Option<&Named>,
) -> Result<Listing, Failure> {
    let file = match hidden {
        Hidden::Directory => None,
        Hidden::File(file) => Some(file),
        Hidden::Other => return Err(refuse_mount_file(path)),
        Hidden::Nothing => return Err(nothing_hidden(path)),
    };
    if let Some(file) = file {
        let cached_bytes = match file.own {
            Some(_) => file.size_bytes,
            None => services
                .node
                .cache()
                .here_bytes(&file.hash, file.size_bytes),
        };
        let kind = Kind::File {
            hash: file.hash,
            size_bytes: file.size_bytes,
            executable: file.executable,
        };
        return Ok(only(entry(
            services,
            Named::new(path),
            &kind,
            file.mtime,
            cached_bytes,
        )));
    }
    let after = after.map(|last| last.as_bytes());
    let after_name = after.and_then(|last| last.rsplit(|byte| *byte == b'/').next());
    let mut listed = services
        .node
        .names()
        .list_hidden(path, after_name, LS_PAGE_MAX_ENTRIES + 1);
    let more = listed.len() > LS_PAGE_MAX_ENTRIES;
    listed.truncate(LS_PAGE_MAX_ENTRIES);
    let entries = listed.into_iter().map(|it| {
        let path = Named::new([path, b"/", &it.name].concat());
        entry(services, path, &it.kind, it.mtime, it.cached_bytes)
    });
    Ok(Listing {
        entries: entries.collect(),
        being_read: Vec::new(),
        more,
    })
}

/// Returns the failure for a path that the folder does not list, with the reason.
pub(super) fn not_listed(services: &Services, path: &SharedPath, viewer: &Viewer) -> Failure {
    let why = services.node.names().why_unlisted(path, viewer.audience());
    let shown = escape(path.as_bytes());
    let remedy = match &why {
        WhyUnlisted::Unshared => return not_found(path),
        WhyUnlisted::BeingRead => {
            let message = format!("{shown} is being read: this node lists it once it is hashed");
            return Failure::new(FailureKind::NotFound, message)
                .with_remedy("p2pfs wait --file waits for it, p2pfs share tells how much is left");
        }
        WhyUnlisted::Owned { owned, .. } => format!(
            "list files of all nodes there again: p2pfs own {} --nobody",
            escape_or_top(owned)
        ),
        WhyUnlisted::LeftOut(_) | WhyUnlisted::Rule(_) => "p2pfs why says more about it".to_owned(),
    };
    let message = format!(
        "{shown} is not listed: {}",
        unlisted_in_words(services, &why)
    );
    Failure::new(FailureKind::NotFound, message).with_remedy(remedy)
}

/// Describes why the folder does not list a name.
fn unlisted_in_words(services: &Services, why: &WhyUnlisted) -> String {
    match why {
        WhyUnlisted::LeftOut(_) => "this node has the file and does not share it".to_owned(),
        WhyUnlisted::Owned { owned, owner } => {
            let (owned, owner) = (escape_or_top(owned), services.node.peers().name_of(owner));
            format!("{owner} owns {owned}: at and below it, only files of {owner} are listed")
        }
        WhyUnlisted::BeingRead => "being read: this node lists it once it is hashed".to_owned(),
        WhyUnlisted::Rule(rule) => rule_sentence(*rule, false).to_owned(),
        WhyUnlisted::Unshared => "no node shares it".to_owned(),
    }
}

fn ls_entry(services: &Services, listed: &NameEntry) -> LsEntry {
    let path = named_as(listed.path());
    match listed {
        NameEntry::Shared(it) => entry(services, path, &it.kind, it.mtime, it.cached_bytes),
        NameEntry::Foreign(_, file) => foreign_entry(path, file),
    }
}

/// Describes a foreign file. The mtime is the time when this node first learned of the file.
fn foreign_entry(path: Named, file: &ForeignFile) -> LsEntry {
    LsEntry {
        path,
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

fn entry(
    services: &Services,
    path: Named,
    kind: &Kind,
    mtime: Timestamp,
    cached_bytes: u64,
) -> LsEntry {
    let executable = matches!(kind, Kind::File { executable, .. } if *executable);
    let (kind, size_bytes, hash) = kind_of(kind);
    let holders = hash.map(|hash| names_in_order(services, &services.node.names().holders(&hash)));
    LsEntry {
        path,
        kind,
        size_bytes,
        modified: calendar_time(mtime),
        executable,
        hash: hash.map(|hash| hash.to_string()),
        holders: holders.unwrap_or_default(),
        cached_bytes,
        pinned: hash.is_some_and(|hash| services.node.pins().is_pinned(&hash)),
        plane: Plane::Native,
    }
}

fn names_in_order(services: &Services, nodes: &[NodeId]) -> Vec<String> {
    let mut names: Vec<String> = nodes
        .iter()
        .map(|node| services.node.peers().name_of(node))
        .collect();
    names.sort();
    names
}

/// Explains why a name shows its content. If this node has a file of that name and does not share
/// it, only root and the daemon's user see the reason, because it reveals private files.
pub(super) fn why(
    services: &Services,
    named: &Named,
    viewer: &Viewer,
) -> Result<Provenance, Failure> {
    viewer.check_read(named)?;
    let names = services.node.names();
    let path = names.through_links(&name_behind(services, named)?);
    let why = names.why(&path, viewer.audience());
    if why.versions.is_empty() && matches!(why.entry, Err(WhyUnlisted::Unshared)) {
        return Err(not_found(&path));
    }
    let foreign = match &why.entry {
        Ok(NameEntry::Foreign(path, file)) => Some(foreign_version(named_as(path), file)),
        _ => None,
    };
    let versions = why.versions.iter().map(|it| version_info(services, it));
    Ok(Provenance {
        path: named_as(&path),
        listed: why.entry.is_ok(),
        rule: rule_in_words(services, &why),
        next_read: next_read(services, &why),
        versions: foreign.into_iter().chain(versions).collect(),
        sent_by: why.sent_by,
        owner: why.owner.map(|owner| services.node.peers().name_of(&owner)),
        left_out: why.left_out.as_ref().map(left_out_in_words),
    })
}

/// Returns the path in the folder that [`why`] explains. A path outside `.p2pfs` is returned as it
/// is. For a path below `.p2pfs/peers/NODE`, it is the rest of the path, even if the folder shows
/// the version of another node there. For a content by its hash, it is any name that shows the
/// content, or an error if there is none.
fn name_behind(services: &Services, named: &Named) -> Result<SharedPath, Failure> {
    let bytes = trimmed(named);
    match services.node.names().hidden(bytes) {
        None => shared_path(named),
        Some(Hidden::File(file)) if bytes.starts_with(BY_HASH) => {
            let name = services.node.names().names_of(&file.hash, 1).pop();
            name.ok_or_else(|| {
                let message = format!("no name shows the content {} any more", file.hash);
                Failure::new(FailureKind::NotFound, message)
                    .with_remedy("p2pfs get takes it by its hash, from who has it")
            })
        }
        Some(Hidden::File(file)) => Ok(file.path),
        Some(_) => Err(nothing_hidden(bytes)),
    }
}

/// Describes why this node does not share its own file of a name.
fn left_out_in_words(left_out: &LeftOut) -> String {
    let remedy = match &*left_out.remedy {
        "" => String::new(),
        remedy => format!(": {remedy}"),
    };
    format!("{}: {}{remedy}", left_out.path.display(), left_out.why)
}

/// Describes a foreign file as the version that its name shows.
fn foreign_version(path: Named, file: &ForeignFile) -> VersionInfo {
    let entry = foreign_entry(path, file);
    VersionInfo {
        shown_as: Some(entry.path),
        won: true,
        waits: false,
        author: file.holder.clone(),
        author_node: String::new(),
        kind: entry.kind,
        hash: None,
        size_bytes: entry.size_bytes,
        modified: entry.modified,
        version_time: entry.modified,
        holders: entry.holders,
        cached_bytes: entry.cached_bytes,
        verified: NO_HASH.to_owned(),
    }
}

fn version_info(services: &Services, version: &Version) -> VersionInfo {
    let (kind, size_bytes, hash) = kind_of(&version.kind);
    let author = version.authors.first().map(|(node, _)| *node);
    VersionInfo {
        shown_as: version.listed_as.as_ref().map(named_as),
        won: version.has_name,
        waits: version.rule == Rule::Clock,
        author: author.map_or_else(String::new, |node| services.node.peers().name_of(&node)),
        author_node: author.map_or_else(String::new, |node| node.to_string()),
        kind,
        hash: hash.map(|hash| hash.to_string()),
        size_bytes,
        modified: calendar_time(version.mtime),
        version_time: calendar_time(version.version_time),
        holders: names_in_order(services, &version.holders),
        cached_bytes: hash.map_or(0, |hash| {
            services.node.cache().here_bytes(&hash, size_bytes)
        }),
        verified: "blake3".to_owned(),
    }
}

/// Describes the effect of a read now.
fn next_read(services: &Services, why: &Why) -> String {
    let sentence = match (why.next_read, &why.entry) {
        (NextRead::Nothing, Err(unlisted)) => match (why.versions.first(), unlisted) {
            (Some(version), _) if version.rule == Rule::Givable => {
                "nothing: no live node can give it"
            }
            (None, WhyUnlisted::LeftOut(_)) => "fails: no node shares it",
            (None, WhyUnlisted::BeingRead) => "nothing yet: p2pfs wait --file waits for it",
            _ => "nothing: no version of it is listed",
        },
        (NextRead::Nothing, Ok(_)) => "nothing: no live node can give it",
        (NextRead::Foreign, Ok(NameEntry::Foreign(_, file))) => {
            return next_foreign_read(services, file);
        }
        (NextRead::Foreign | NextRead::NoFile, _) => "nothing is fetched: it is not a regular file",
        (NextRead::OwnShare, _) => "read from this node's own share",
        (NextRead::Cache, _) => "read from the local cache",
        (NextRead::AskAround, _) => "ask the cluster who has it: no holder is reachable",
        (NextRead::HoldersGone, _) => return gone(services, &why.versions),
        (
            NextRead::Fetch {
                missing_bytes,
                size_bytes,
                first,
            },
            _,
        ) => {
            let rates = services.node.traffic().rates();
            let why_it = why_first(rates.iter().find(|rate| rate.node == first));
            let first = services.node.peers().name_of(&first);
            return format!(
                "fetch {missing_bytes} of {size_bytes} bytes, asking {first} first ({why_it})"
            );
        }
    };
    sentence.to_owned()
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

/// Describes a read of a file whose holders are all away or down.
fn gone(services: &Services, versions: &[Version]) -> String {
    let Some(version) = versions.iter().find(|it| it.has_name) else {
        return gone_in_words(&[], 0, 0);
    };
    let me = services.node.id();
    let others = version.holders.iter().filter(|it| **it != me);
    let others: Vec<NodeId> = others.copied().collect();
    let (_, size_bytes, hash) = kind_of(&version.kind);
    let here_bytes = hash.map_or(0, |hash| {
        services.node.cache().here_bytes(&hash, size_bytes)
    });
    gone_in_words(&names_in_order(services, &others), here_bytes, size_bytes)
}

/// Describes a read of a file whose `holders` are all away or down. `here_bytes` of the file are on
/// this node.
fn gone_in_words(holders: &[String], here_bytes: u64, size_bytes: u64) -> String {
    let (outcome, missing) = match here_bytes {
        0 => ("fails".to_owned(), "it"),
        _ => {
            let part = format!("{here_bytes} of {size_bytes} bytes");
            (
                format!("reads the {part} that are here, then fails"),
                "the rest",
            )
        }
    };
    match holders {
        [holder] => {
            format!("{outcome}: {holder} is away or down, and no other node has {missing}")
        }
        _ => {
            let holders = holders.join(", ");
            format!("{outcome}: all nodes that have {missing} are away or down: {holders}")
        }
    }
}

/// Describes why the next read is requested first from the node with this rate.
fn why_first(rate: Option<&PeerRate>) -> String {
    if let Some(PeerRate {
        unanswered: 1.., ..
    }) = rate
    {
        return "it is alive, but left the last questions without an answer".to_owned();
    }
    let figures = rate.and_then(|rate| Some((rate.latency?, rate.rate_bytes_per_s?)));
    match figures {
        Some((latency, rate)) => format!(
            "it answers in {:.1} ms, at {:.1} MiB/s",
            latency.as_secs_f64() * 1e3,
            rate / MIB
        ),
        None => "it has answered nothing yet".to_owned(),
    }
}

/// Returns the type, the length, and the hash of a file.
pub(super) fn kind_of(kind: &Kind) -> (EntryKind, u64, Option<ContentHash>) {
    match kind {
        Kind::File {
            hash, size_bytes, ..
        } => (EntryKind::File, *size_bytes, Some(*hash)),
        Kind::Directory => (EntryKind::Directory, 0, None),
        Kind::Symlink { target } => (EntryKind::Symlink, target.len() as u64, None),
    }
}

/// Creates a listing of one entry.
fn only(entry: LsEntry) -> Listing {
    Listing {
        entries: vec![entry],
        ..Listing::default()
    }
}

/// Converts a path for the interface.
pub(super) fn named_as(path: &SharedPath) -> Named {
    Named::new(path.as_bytes())
}

/// Describes the rule that decided which version the name shows, or why it shows none.
fn rule_in_words(services: &Services, why: &Why) -> String {
    match &why.entry {
        Ok(NameEntry::Foreign(_, file)) => format!(
            "no p2pfs node shares it: the legacy peer {} said first that it has it, and nothing \
             verifies its bytes",
            file.holder
        ),
        Err(unlisted) if why.versions.is_empty() => unlisted_in_words(services, unlisted),
        _ => decision_in_words(&why.versions, |node| services.node.peers().name_of(node)),
    }
}

/// Describes the decision about the versions of a name. A version with a time ahead of this node's
/// clock took no part in it, so the text mentions that version separately.
fn decision_in_words(versions: &[Version], name_of: impl Fn(&NodeId) -> String) -> String {
    let Some((first, behind)) = versions.split_first() else {
        return rule_sentence(Rule::Only, true).to_owned();
    };
    let decided = superseded_in_words(first, &name_of)
        .unwrap_or_else(|| rule_sentence(first.rule, first.has_name).to_owned());
    let hidden = behind.iter();
    let hidden = hidden.filter_map(|version| {
        let author = name_of(&version.authors.first()?.0);
        let why = superseded_in_words(version, &name_of)?;
        Some(format!("that of {author} is not listed: {why}"))
    });
    let waiting = behind.iter().find(|version| version.rule == Rule::Clock);
    let waiting = waiting.and_then(|version| version.authors.first());
    let waiting = waiting.map(|(author, _)| {
        format!(
            "beside it, that of {} is from ahead of this node's clock and waits for its time",
            name_of(author)
        )
    });
    let all = [decided].into_iter().chain(hidden).chain(waiting);
    all.collect::<Vec<String>>().join("; ")
}

/// Describes what hides a version that was replaced or deleted.
fn superseded_in_words(version: &Version, name_of: impl Fn(&NodeId) -> String) -> Option<String> {
    let by = version.superseded_by.as_ref()?;
    let (author, time) = (name_of(&by.author), calendar_time(by.time));
    Some(if by.hash.is_some() {
        format!("the version of {author} from {time} replaces it")
    } else {
        format!("{author} deleted it at {time}")
    })
}

/// Describes the rule of the first version of a name, which has the name or is not listed.
fn rule_sentence(rule: Rule, has_name: bool) -> &'static str {
    match rule {
        Rule::Only => "there is one version",
        Rule::Newest => "the newest version time wins",
        Rule::SmallestHash => "version times are equal: the smaller hash wins",
        Rule::Directory => "a directory keeps the name, the file stands beside it",
        Rule::AuthorLives => "its author is alive, the authors of newer versions are gone",
        Rule::Served => "no holder gave the versions that would precede it",
        Rule::Clock => "its time is ahead of this node's clock: it waits until then",
        Rule::Givable => "no live node can give it",
        Rule::Replaced if has_name => "it replaces the other versions",
        Rule::Replaced => "another version replaces it",
        Rule::Deleted => "it was deleted",
        Rule::Owner if has_name => "its author owns the path: no other version is listed",
        Rule::Owner => {
            "another node owns the path, or one below this link: this version is not listed"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rules: &[Rule]) -> String {
        let share = Default::default();
        let version = |(number, rule): (u8, &Rule)| Version {
            kind: Kind::Symlink { target: "x".into() },
            mtime: Timestamp::default(),
            version_time: Timestamp::default(),
            authors: vec![(NodeId::new([number; 32]), share)],
            holders: Vec::new(),
            listed_as: None,
            has_name: number == 0 && *rule != Rule::Clock,
            rule: *rule,
            superseded_by: None,
            replaces: Vec::new(),
        };
        let versions: Vec<Version> = (0..).zip(rules).map(version).collect();
        decision_in_words(&versions, |node| format!("n{}", node.as_bytes()[0]))
    }

    #[test]
    fn a_future_version_is_shown_as_waiting_beside_the_current_one() {
        let waits =
            "beside it, that of n1 is from ahead of this node's clock and waits for its time";
        let beside = told(&[Rule::Only, Rule::Clock]);
        assert_eq!(beside, format!("there is one version; {waits}"));
        let contested = told(&[Rule::Newest, Rule::Clock, Rule::Givable]);
        assert_eq!(contested, format!("the newest version time wins; {waits}"));
        assert!(told(&[Rule::Clock, Rule::Clock]).starts_with("its time is ahead"));
        assert_eq!(told(&[Rule::Only]), "there is one version");
    }

    #[test]
    fn file_whose_holders_are_gone_is_said_to_fail() {
        let carlo = gone_in_words(&["carlo".to_owned()], 0, 9);
        assert_eq!(
            carlo,
            "fails: carlo is away or down, and no other node has it"
        );
        let names = ["anna".to_owned(), "carlo".to_owned()];
        let both = gone_in_words(&names, 0, 9);
        assert_eq!(
            both,
            "fails: all nodes that have it are away or down: anna, carlo"
        );
        let part = gone_in_words(&names[..1], 4, 9);
        assert_eq!(
            part,
            "reads the 4 of 9 bytes that are here, then fails: anna is away or down, and no other \
             node has the rest"
        );
    }
}
