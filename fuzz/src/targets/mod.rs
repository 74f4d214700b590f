//! All decoders of outside bytes, and the machines that such bytes drive. Each target accepts any
//! bytes and panics only at a fault of p2pfs. The test program `text` runs the seeds of all
//! targets, so this module needs no more than p2pfs and its tests have.

mod catalogue;
mod cluster;
mod departures;
mod disk;
mod members;
mod node;
mod planes;
mod session;
mod sockets;
mod tls;
mod trust;
mod wire;

use arbitrary::{Result, Unstructured};

/// A target: its name, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("wire_frames", wire::frames),
    ("wire_datagrams", wire::datagrams),
    ("wire_records", wire::records),
    ("wire_batches", wire::batches),
    ("wire_proofs", |bytes| steer(bytes, wire::proofs)),
    ("wire_legacy", wire::legacy),
    ("wire_mesh", |bytes| steer(bytes, wire::mesh)),
    ("wire_mdns", wire::mdns),
    ("tls_records", |bytes| steer(bytes, tls::records)),
    ("tls_handshake", |bytes| steer(bytes, tls::handshake)),
    ("names", wire::names),
    ("trust_statements", trust::statements),
    ("trust_exchanges", trust::exchanges),
    ("trust_tokens", trust::tokens),
    ("trust_departures", |bytes| steer(bytes, departures::drive)),
    ("control_calls", sockets::calls),
    ("configuration", sockets::configuration),
    ("state_files", |bytes| steer(bytes, disk::state)),
    ("cache_files", |bytes| steer(bytes, disk::cache)),
    ("machine_members", |bytes| steer(bytes, members::drive)),
    ("machine_catalogue", |bytes| steer(bytes, catalogue::drive)),
    ("machine_cluster", |bytes| steer(bytes, cluster::drive)),
    ("machine_session", |bytes| steer(bytes, session::drive)),
    ("machine_node", |bytes| steer(bytes, node::drive)),
    ("machine_legacy", |bytes| steer(bytes, planes::legacy)),
    ("machine_mesh", |bytes| steer(bytes, planes::mesh)),
];

/// Drives a machine by bytes until they end.
fn steer(bytes: &[u8], drive: fn(&mut Unstructured<'_>) -> Result<()>) {
    let _out_of_bytes = drive(&mut Unstructured::new(bytes));
}
