//! Answers about files and messages sent to other nodes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FileType, fstat, fstatfs};

use super::{Asked, Services, failed, mesh};
use crate::daemon::control::{
    Answer, CallerGone, Failure, FailureKind, MeshInfo, Named, NotTakenBy, ReplySink, Said,
    SendDone, SendProgress, SendingTo, TakenBy, parameters,
};
use p2pfs_node::{Delivered, Delivery, SendError};

/// Interval between progress reports.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// The type of a FUSE filesystem in statfs(2) (linux/magic.h).
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;

impl Answer<Asked> for parameters::Send {
    async fn answer(self, asked: &mut Asked) -> Result<SendDone, Failure> {
        let descriptor = asked.descriptor.take();
        send(
            &asked.services,
            &self.name,
            &self.to,
            descriptor,
            &asked.reply,
        )
        .await
    }
}

impl Answer<Asked> for parameters::Say {
    async fn answer(self, asked: &mut Asked) -> Result<Said, Failure> {
        say(&asked.services, &self.text).await
    }
}

impl Answer<Asked> for parameters::Mesh {
    async fn answer(self, asked: &mut Asked) -> Result<MeshInfo, Failure> {
        mesh::mesh(&asked.services, self.connect.as_deref(), self.discover).await
    }
}

async fn send(
    services: &Services,
    name: &Named,
    to: &[String],
    descriptor: Option<OwnedFd>,
    reply: &ReplySink,
) -> Result<SendDone, Failure> {
    let file = regular_file(descriptor)?;
    let sending = services
        .node
        .messenger()
        .send_open_file(file, name.as_bytes(), to);
    let sent = tokio::select! {
        sent = sending => sent.map_err(not_sent)?,
        () = reply.closed() => return Err(CallerGone.into()),
    };
    attend(sent, name.as_bytes(), reply).await
}

async fn say(services: &Services, text: &str) -> Result<Said, Failure> {
    if text.trim().is_empty() {
        let failure = Failure::new(FailureKind::Invalid, "there is nothing to say");
        return Err(failure.with_remedy("say it behind the command: p2pfs say TEXT"));
    }
    let peers = services.node.messenger().broadcast(text).await;
    if peers.is_empty() {
        let message = "no other node is connected";
        return Err(Failure::new(FailureKind::NotFound, message)
            .with_remedy("p2pfs peers shows who is there"));
    }
    Ok(Said { peers })
}

/// Returns the open file that arrived with the call. Refuses all but regular files, and a file of a
/// FUSE filesystem, because it may belong to this daemon's own mount, which the daemon must not
/// read through the kernel.
fn regular_file(descriptor: Option<OwnedFd>) -> Result<File, Failure> {
    let invalid = |message: &str| Failure::new(FailureKind::Invalid, message);
    let Some(descriptor) = descriptor else {
        return Err(invalid("no descriptor came with the call"));
    };
    let broken = |error: rustix::io::Errno| failed(error.to_string());
    let found = fstat(&descriptor).map_err(broken)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(invalid("only regular files can be sent"));
    }
    let filesystem = fstatfs(&descriptor).map_err(broken)?;
    if u64::try_from(filesystem.f_type) == Ok(FUSE_SUPER_MAGIC) {
        return Err(invalid("a file of a FUSE filesystem is to be copied first"));
    }
    Ok(File::from(descriptor))
}

fn not_sent(error: SendError) -> Failure {
    let text = error.to_string();
    match error {
        SendError::Unknown { .. } | SendError::Ambiguous { .. } | SendError::Nobody => {
            Failure::new(FailureKind::NotFound, text).with_remedy("p2pfs peers shows who is there")
        }
        _ => failed(text),
    }
}

async fn attend(
    mut delivery: Delivery,
    path: &[u8],
    reply: &ReplySink,
) -> Result<SendDone, Failure> {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let size_bytes = delivery.size_bytes();
    let mut done = SendDone {
        size_bytes,
        ..SendDone::default()
    };
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    loop {
        tokio::select! {
            delivered = delivery.next() => match delivered {
                Some(delivered) => conclude(delivered, name, &mut done),
                None => break,
            },
            _ = tick.tick() => {
                let peers = delivery.progress().map(|(peer, sent_bytes)| SendingTo {
                    peer: peer.to_owned(),
                    sent_bytes,
                });
                let peers = peers.collect();
                // A caller that reads slowly misses some reports.
                let _busy = reply.try_more(&SendProgress { size_bytes, peers });
            }
            // The return drops `delivery`, which stops the transfer.
            () = reply.closed() => return Err(CallerGone.into()),
        }
    }
    done.taken.sort_by(|one, other| one.peer.cmp(&other.peer));
    done.failed.sort_by(|one, other| one.peer.cmp(&other.peer));
    Ok(done)
}

/// Adds to `done` the result of sending the file `name` to one peer.
fn conclude(delivered: Delivered, name: &[u8], done: &mut SendDone) {
    let Delivered {
        peer,
        confirmed,
        kept_as,
        outcome,
    } = delivered;
    match outcome {
        Ok(()) => done.taken.push(TakenBy {
            peer,
            confirmed,
            kept_as: kept_as
                .filter(|kept| *kept != name)
                .map(|kept| String::from_utf8_lossy(&kept).into_owned()),
        }),
        Err(why) => done.failed.push(NotTakenBy {
            peer,
            why: why.to_string(),
        }),
    }
}
