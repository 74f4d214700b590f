//! The files that a mesh peer pushes into the inbox over one connection.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::mesh::{Begun, FileId, MeshOffence, Receiving, Refused};
use crate::wire::mesh::{FileEnd, FileStart};
use p2pfs_node::inbox::{ChargedSender, Inbox, InboxFile};
use p2pfs_node::{EventLog, News, Push, PushStage};
use p2pfs_proto::wire::native::record::Sender;

/// A file in transfer.
struct MeshArrival {
    begun: Begun,
    arriving: InboxFile,
}

/// The files in flight on one connection. Dropping this discards them.
pub(super) struct PushedFiles {
    receiving: Receiving,
    coming: BTreeMap<FileId, MeshArrival>,
    inbox: Inbox,
    events: EventLog,
    /// The name that the peer claims.
    from: String,
    /// The sender to which the space of the files is charged.
    origin: ChargedSender,
}

/// A received message about files, or the passage of time.
pub(super) enum FileStep {
    Start(FileStart),
    Chunk(Vec<u8>),
    Part(Bytes),
    End(FileEnd),
    /// Time has passed.
    Tick,
}

impl PushedFiles {
    pub(super) fn new(inbox: Inbox, events: EventLog, from: String, origin: ChargedSender) -> Self {
        Self {
            receiving: Receiving::new(Instant::now()),
            coming: BTreeMap::new(),
            inbox,
            events,
            from,
            origin,
        }
    }

    /// Performs one step. Returns the offence if the sender commits one. Blocks for writing and
    /// hashing.
    pub(super) fn perform(&mut self, step: FileStep) -> Option<MeshOffence> {
        let now = Instant::now();
        match step {
            FileStep::Start(start) => self.start(now, start),
            FileStep::Chunk(name) => {
                self.receiving.chunk(now, name);
                None
            }
            FileStep::Part(bytes) => self.part(now, &bytes),
            FileStep::End(end) => self.end(&end),
            FileStep::Tick => {
                for id in self.receiving.expire(now) {
                    self.fail(id, "its end did not come");
                }
                None
            }
        }
    }

    fn start(&mut self, now: Instant, start: FileStart) -> Option<MeshOffence> {
        let (sent_name, size_bytes) = (start.name.clone(), start.size_bytes);
        let (begun, replaced) = match self.receiving.start(now, start) {
            Ok(begun) => begun,
            Err(refused) => {
                self.report(&sent_name, size_bytes, failed(&refused.offence));
                return self.refused(refused);
            }
        };
        if let Some(replaced) = replaced {
            self.fail(replaced, "it was begun again");
        }
        match self.inbox.begin(self.origin, size_bytes) {
            Ok(arriving) => {
                self.report(&begun.name, size_bytes, PushStage::Started);
                self.coming
                    .insert(begun.id, MeshArrival { begun, arriving });
            }
            Err(why) => {
                // Not an offence: the sender cannot know whether the inbox accepts the file.
                self.receiving.forget(begun.id);
                self.report(&begun.name, size_bytes, failed(&why));
            }
        }
        None
    }

    fn part(&mut self, now: Instant, bytes: &[u8]) -> Option<MeshOffence> {
        let (id, offset) = match self.receiving.part(now, bytes) {
            Ok(Some(part)) => part,
            Ok(None) => return None,
            Err(refused) => return self.refused(refused),
        };
        let coming = self.coming.get(&id)?;
        if let Err(why) = coming.arriving.write_at(offset, bytes) {
            self.receiving.forget(id);
            self.fail(id, &why.to_string());
        }
        None
    }

    fn end(&mut self, end: &FileEnd) -> Option<MeshOffence> {
        let id = match self.receiving.end(end) {
            Ok(Some(id)) => id,
            Ok(None) => return None,
            Err(refused) => return self.refused(refused),
        };
        let MeshArrival { begun, arriving } = self.coming.remove(&id)?;
        let size_bytes = begun.size_bytes;
        match arriving.publish(&begun.name, &Sender::Peer(self.from.clone()), &self.from) {
            Ok(name) => self.report(&name, size_bytes, PushStage::Done),
            Err(why) => self.report(&begun.name, size_bytes, failed(&why)),
        }
        None
    }

    fn refused(&mut self, refused: Refused) -> Option<MeshOffence> {
        if let Some(id) = refused.id {
            self.fail(id, &format!("its sender {}", refused.offence));
        }
        Some(refused.offence)
    }

    fn fail(&mut self, id: FileId, why: &str) {
        if let Some(MeshArrival { begun, .. }) = self.coming.remove(&id) {
            let stage = PushStage::Failed(why.to_owned());
            self.report(&begun.name, begun.size_bytes, stage);
        }
    }

    fn report(&self, name: &[u8], size_bytes: u64, stage: PushStage) {
        self.events.record(News::Received(Push {
            peer: self.from.clone(),
            name: name.to_vec(),
            size_bytes,
            stage,
        }));
    }
}

fn failed(why: &impl ToString) -> PushStage {
    PushStage::Failed(why.to_string())
}

impl Drop for PushedFiles {
    fn drop(&mut self) {
        let ids: Vec<FileId> = self.coming.keys().copied().collect();
        for id in ids {
            self.fail(id, "the connection ended before the file did");
        }
    }
}
