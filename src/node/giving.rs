//! What a node gives others unasked, and takes so: put together at its start.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::courier::{Courier, mesh_id};
use super::events::EventLog;
use super::handle::Published;
use super::inbox::{Accept, Inbox, InboxSettings, PushParts, Pushes};
use super::mailbox::Mailbox;
use super::mesh::{self, Mesh, MeshParts, MeshSettings};
use super::traffic::SentBytes;
use crate::id::{NodeId, NodeName};
use crate::net::peer::PeerNet;

/// How giving and taking are set; see `[inbox]` and `[mesh]` in the configuration.
#[derive(Clone, Debug, Default)]
pub struct GivingSettings {
    /// Where files of other nodes go.
    pub inbox: Option<InboxSettings>,
    /// Whose files go there.
    pub accept: Accept,
    /// The mesh; none: off.
    pub mesh: Option<MeshSettings>,
    /// Where files of mesh peers go.
    pub mesh_inbox: Option<InboxSettings>,
}

/// What it works with.
pub(super) struct GivingParts<'a> {
    pub(super) me: NodeId,
    pub(super) name: &'a NodeName,
    pub(super) seed: u64,
    pub(super) net: &'a PeerNet,
    pub(super) published: &'a Published,
    pub(super) events: &'a EventLog,
    pub(super) sent: &'a SentBytes,
}

/// Both directions.
pub(super) struct Giving {
    pub(super) courier: Courier,
    pub(super) pushes: Pushes,
}

/// Starts it; what it cannot have is off, with a warning. The listener, where there is one, is the
/// mesh's.
pub(super) fn start(
    settings: &GivingSettings,
    parts: &GivingParts<'_>,
    listener: Option<TcpListener>,
) -> Giving {
    let events = parts.events;
    let inbox = settings.inbox.as_ref().and_then(|it| open(it, events));
    let mailbox = Mailbox::new(events.clone());
    let mesh = settings.mesh.as_ref().and_then(|mesh| {
        let same = settings.inbox == settings.mesh_inbox;
        let folder = match (&settings.mesh_inbox, &inbox) {
            (Some(_), Some(inbox)) if same => Some(inbox.clone()),
            (own, _) => own.as_ref().and_then(|it| open(it, events)),
        };
        start_mesh(mesh, folder, &mailbox, parts, listener)
    });
    let published = parts.published.clone();
    let accept = settings.accept.clone();
    let taking = PushParts {
        inbox,
        accept,
        events: events.clone(),
        mailbox: mailbox.clone(),
        published: published.clone(),
    };
    let pushes = Pushes::new(taking);
    let courier = Courier {
        me: parts.me,
        net: parts.net.clone(),
        published,
        mesh,
        events: events.clone(),
        mailbox,
        sent: parts.sent.clone(),
    };
    Giving { courier, pushes }
}

fn open(settings: &InboxSettings, events: &EventLog) -> Option<Inbox> {
    let dir = settings.dir.display();
    Inbox::open(settings.clone())
        .inspect_err(|error| {
            events.warn(format!(
                "files that others push are not taken: the inbox {dir} cannot be used: {error}; \
                 name another folder as inbox.dir"
            ));
        })
        .ok()
}

fn start_mesh(
    settings: &MeshSettings,
    inbox: Option<Inbox>,
    mailbox: &Mailbox,
    parts: &GivingParts<'_>,
    listener: Option<TcpListener>,
) -> Option<Mesh> {
    let listen: SocketAddr = settings.listen;
    let started = mesh::start(MeshParts {
        settings: settings.clone(),
        id: mesh_id(&parts.me),
        name: parts.name.to_string(),
        seed: parts.seed,
        inbox,
        events: parts.events.clone(),
        mailbox: mailbox.clone(),
        listener,
    });
    started
        .inspect_err(|error| {
            parts.events.warn(format!(
                "mesh peers are not spoken to: cannot listen on {listen}: {error}; give another \
                 port as mesh.listen"
            ));
        })
        .ok()
}
