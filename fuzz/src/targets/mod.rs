//! Everything that reads bytes from outside, and the machines that are driven by what comes: each
//! target takes any bytes, and panics only where p2pfs is wrong. The test program `text` runs the
//! seeds of all of them, so nothing here needs more than p2pfs and its tests have.

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

/// A target: its name, and what it does with bytes.
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

/// Lets bytes decide what happens; their end is the end of it.
fn steer(bytes: &[u8], drive: fn(&mut Unstructured<'_>) -> Result<()>) {
    let _out_of_bytes = drive(&mut Unstructured::new(bytes));
}
