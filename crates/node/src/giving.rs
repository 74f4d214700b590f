//! Setup of sending and receiving files, messages and lines of chat at the start of a node.

use std::sync::Arc;

use super::conditions::{Condition, Finding};
use super::events::EventLog;
use super::file_sender::FileSender;
use super::foreign::{ForeignPeers, ForeignPushes};
use super::inbox::{Accept, InboxHandle, InboxSettings, PushParts, Pushes};
use super::mailbox::Mailbox;
use super::run::NodeHandles;
use p2pfs_proto::trust::TrustReader;
use p2pfs_types::id::NodeId;

/// Settings for sending and receiving; see `[inbox]` in the configuration.
#[derive(Clone, Debug, Default)]
pub struct GivingSettings {
    /// The inbox for files that other nodes push.
    pub inbox: Option<InboxSettings>,
    /// The senders whose files are accepted.
    pub accept: Accept,
    /// The inbox for files that foreign peers push. It may be the same as `inbox`.
    pub foreign_inbox: Option<InboxSettings>,
}

/// The parts of the node that sending and receiving use.
pub(super) struct GivingContext<'a> {
    pub(super) me: NodeId,
    pub(super) handles: &'a NodeHandles,
    pub(super) trust: &'a TrustReader,
    pub(super) foreign: Option<&'a Arc<dyn ForeignPeers>>,
}

/// The sending and the receiving side.
pub(super) struct GivingSides {
    pub(super) courier: FileSender,
    pub(super) pushes: Pushes,
    /// The inboxes for files of nodes and of foreign peers, which may be the same one.
    pub(super) inboxes: Vec<InboxHandle>,
    /// The receivers of files and messages that foreign peers push.
    pub(super) foreign: ForeignPushes,
}

/// Starts both sides. A part that cannot be opened stays off, with a warning.
pub(super) fn start(settings: &GivingSettings, parts: &GivingContext<'_>) -> GivingSides {
    let events = &parts.handles.events;
    let open = |it: &Option<InboxSettings>| it.as_ref().map(|it| open(it, events));
    let inbox = open(&settings.inbox).unwrap_or_default();
    let mailbox = Mailbox::new(events.clone());
    let same = settings.inbox == settings.foreign_inbox;
    let foreign_inbox = if same {
        inbox.clone()
    } else {
        open(&settings.foreign_inbox).unwrap_or_default()
    };
    let inboxes = vec![inbox.clone(), foreign_inbox.clone()];
    warn_of_names(settings, parts);
    let published = parts.handles.published.clone();
    let accept = settings.accept.clone();
    let names = parts.handles.names.clone();
    let taking = PushParts {
        inbox,
        accept,
        events: events.clone(),
        mailbox: mailbox.clone(),
        names: names.clone(),
        download: parts.handles.fetcher.download().clone(),
        taken: parts.handles.traffic.taken.clone(),
    };
    let pushes = Pushes::new(taking);
    let courier = FileSender {
        me: parts.me,
        net: parts.handles.net.clone(),
        published,
        names,
        foreign: parts.foreign.cloned(),
        events: events.clone(),
        mailbox: mailbox.clone(),
        sent: parts.handles.traffic.sent.clone(),
        upload: parts.handles.server.upload().clone(),
    };
    GivingSides {
        courier,
        pushes,
        inboxes,
        foreign: ForeignPushes {
            inbox: foreign_inbox,
            mailbox,
        },
    }
}

/// Warns if members are listed by name in a cluster of a secret file. Only a certificate proves a
/// name, and such a cluster has no certificates.
fn warn_of_names(settings: &GivingSettings, parts: &GivingContext<'_>) {
    let Accept::Listed(listed) = &settings.accept else {
        return;
    };
    let is_key = |it: &&String| it.parse::<NodeId>().is_ok();
    if let Some(name) = listed.iter().find(|it| !is_key(it))
        && !parts.trust.has_ledger()
    {
        parts.handles.events.warn(format!(
            "inbox.from names {name:?}, and in a cluster without certificates nobody can prove \
             to be called so: list the node by its key, as p2pfs peers --json shows it"
        ));
    }
}

fn open(settings: &InboxSettings, events: &EventLog) -> InboxHandle {
    let (dir, events) = (settings.dir.clone(), events.clone());
    InboxHandle::begin(settings.clone(), move |error| {
        let dir = dir.display();
        let found = Finding::new(format!(
            "files that others push are not taken: the inbox {dir} cannot be used: {error}"
        ));
        events.begin(Condition::InboxUnusable, "", found);
    })
}
