//! The stored catalogue that a node finds after a restart, as `node::store` writes it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use p2pfs_catalogue::{Catalogue, LogState, LogWrite, Rank};
use p2pfs_proto::wire::native::record::{Fact, Record};
use p2pfs_types::id::{NodeId, NodeName};

/// The state directory without the key.
#[derive(Clone, Default)]
pub(super) struct Disk {
    logs: BTreeMap<NodeId, (LogState, BTreeMap<u64, Fact>)>,
    forgotten: BTreeMap<NodeId, Rank>,
    pub generation: u64,
    pub addresses: Vec<SocketAddr>,
}

impl Disk {
    pub(super) fn write(&mut self, writes: Vec<LogWrite>) {
        for write in writes {
            match write.forgotten_to {
                Some(to) => self.forgotten.insert(write.author, to),
                None => self.forgotten.remove(&write.author),
            };
            let before = self.logs.remove(&write.author);
            let Some(state) = write.state else { continue };
            let mut records = match before {
                Some((_, records)) if !write.anew => records,
                _ => BTreeMap::new(),
            };
            for sequence in &write.deletes {
                records.remove(sequence);
            }
            let puts = write.puts.into_iter();
            records.extend(puts.map(|record| (record.sequence, record.fact)));
            self.logs.insert(write.author, (state, records));
        }
    }

    pub(super) fn load(&self, me: NodeId, name: NodeName) -> Catalogue {
        let mut catalogue = Catalogue::new(me, name);
        for (author, (state, records)) in &self.logs {
            let records = records.iter().map(|(sequence, fact)| Record {
                sequence: *sequence,
                fact: fact.clone(),
            });
            let whole = catalogue.storage().restore(*author, state.clone(), records);
            // A truncated log is pulled again. It is never an error.
            assert!(whole.is_ok());
        }
        catalogue
            .storage()
            .restore_forgotten(self.forgotten.clone());
        catalogue
    }
}
