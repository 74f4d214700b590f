//! Writes events to the log, with the fields and message IDs that a journal is searched by.
//!
//! Owns the names of the fields and the IDs. `packaging/p2pfs.catalog` says how an administrator
//! handles each ID (`journalctl -x`).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::answers::news;
use super::paced::Paced;
use super::services::Services;
use p2pfs_node::{Fetched, News, Push, PushStage, ReadFailure, Severity, StandingCondition, Who};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::is_trick;

/// Maximum fetches with a remembered start, for the duration in the log. Others are logged with a
/// duration of 0.
const FETCHES_TIMED_MAX: usize = 4096;

/// IDs of messages that an administrator must act on, each with an entry in the catalog.
pub(super) mod message {
    pub(crate) const SEED_UNKNOWN: &str = "c2b1d8a7e53f4b1f8e6d0a9c7f3b2d64";
    pub(crate) const PEER_SHUNNED: &str = "e8f6a3d1b7c2495f9d0e4c6a8b1f7035";
    pub(crate) const WARNING: &str = "1f3c5e7a9b0d42f6a8c0e2d4b6f8a1c3";
    pub(crate) const START_FAILED: &str = "4d2b8f60c1a94e7f9be35a07d61c82f4";

    /// All message IDs, except those of the conditions.
    #[cfg(test)]
    pub(crate) const ALL: [&str; 4] = [SEED_UNKNOWN, PEER_SHUNNED, WARNING, START_FAILED];
}

/// Logs a warning that the catalog explains.
pub(super) fn warn(id: &str, text: &str) {
    tracing::warn!(message_id = id, "{}", one_line(text));
}

/// Logs the begin of a condition, or its new cause.
fn tell_condition(standing: &StandingCondition) {
    let text = standing.condition.text();
    let (name, said) = (text.name, one_line(&standing.sentence()));
    match text.severity {
        Severity::Error => {
            tracing::error!(message_id = text.message_id, condition = name, "{said}");
        }
        Severity::Warning => {
            tracing::warn!(message_id = text.message_id, condition = name, "{said}");
        }
    }
}

/// Logs the end of a condition.
fn tell_ended(standing: &StandingCondition) {
    let text = standing.condition.text();
    let (name, found) = (text.name, one_line(&standing.finding.found));
    tracing::info!(
        message_id = text.message_id,
        condition = name,
        "no longer so: {found}"
    );
}

/// Logs that the reason for which the last start failed is gone.
pub(super) fn tell_start_works(reason: &str) {
    tracing::info!("no longer so: {}", one_line(reason));
}

/// Logs the remembered events since the start, and all later events.
pub(super) fn follow(services: &Arc<Services>) {
    let mut events = services.node.events().follow();
    let mut teller = Teller {
        services: services.clone(),
        begun: HashMap::new(),
        paced: Paced::new(Instant::now()),
        failed_reads: Paced::new(Instant::now()),
    };
    tokio::spawn(async move {
        let mut lost = 0;
        while let Some(noted) = events.next().await {
            if events.lost() > lost {
                tracing::info!("{} events were not told", events.lost() - lost);
                lost = events.lost();
            }
            teller.tell(&noted.news);
        }
    });
}

struct Teller {
    services: Arc<Services>,
    begun: HashMap<ContentHash, Instant>,
    /// Lines about mesh peers and failed pushes.
    paced: Paced,
    failed_reads: Paced,
}

impl Teller {
    fn tell(&mut self, news: &News) {
        match news {
            News::PeerUp(who) => {
                tokio::spawn(tell_newcomer(self.services.clone(), who.clone()));
            }
            News::PeerAway(who) => tell_peer(who, "stopped"),
            News::PeerDown(who, _) => tell_peer(who, "is gone"),
            News::PeerShunned(who) => {
                let name = name(who);
                tracing::warn!(
                    message_id = message::PEER_SHUNNED, peer = %who.node, peer_name = name,
                    "{name} sent bytes that do not fit their hash and is not asked any more",
                );
            }
            News::Joined(who, by) => {
                tracing::info!(peer = %who.node, by = %by.node,
                    "{} was admitted by {}", name(who), name(by));
            }
            News::JoinRefused { who, from, why, .. } => {
                let node = one_line(&news::unproven(who));
                tracing::warn!(peer = %who.node,
                    "cannot admit {node} at {from}: {}", one_line(why));
            }
            News::Expelled(who, by) if who.node == by.node => {
                tracing::info!(peer = %who.node, "{} left the cluster", name(who));
            }
            News::Expelled(who, by) => {
                tracing::warn!(peer = %who.node, by = %by.node,
                    "{} was expelled by {}", name(who), name(by));
            }
            News::Rotated(by) => {
                tracing::info!(by = %by.node, "{} gave the members a fresh secret", name(by));
            }
            News::Added(path) => tracing::debug!(path = ?path, "added {path:?}"),
            News::Removed(path, _) => tracing::debug!(path = ?path, "removed {path:?}"),
            News::Changed(path, _) => tracing::debug!(path = ?path, "changed {path:?}"),
            News::FetchStarted(fetched) => self.begin(fetched),
            News::FetchDone(fetched) => {
                let (path, duration_usec) = (path(fetched), self.end(&fetched.hash));
                let bytes = fetched.size_bytes;
                tracing::debug!(path, bytes, duration_usec, "fetched {path}");
            }
            News::ReadFailed(fetched, failure, why) => {
                self.begun.remove(&fetched.hash);
                self.tell_failed_read(&path(fetched), *failure, why);
            }
            News::Given(given) => {
                let path = one_line(&String::from_utf8_lossy(&given.name));
                let gave = if given.is_done { "gave" } else { "giving" };
                tracing::debug!(
                    peer_name = %given.peer, path, bytes = given.size_bytes,
                    "{gave} {path} to the legacy peer {}", given.peer
                );
            }
            News::ForeignUp { who, .. } => self.tell_mesh(&who.name, who.address, "there"),
            News::ForeignDown(who, why) => {
                self.tell_mesh(&who.name, who.address, &format!("gone: {why}"))
            }
            News::ForeignRejected(address, why) => tracing::debug!("{address}: {why}"),
            News::ForeignLearned { .. } | News::Chat { .. } | News::Bytes { .. } => {}
            News::Received(push) => self.tell_push("from", push),
            News::Sent(push) => self.tell_push("to", push),
            News::Warning(message, _) => warn(message::WARNING, message),
            News::Began(standing) | News::Explained(standing) => tell_condition(standing),
            News::Ended(standing) => tell_ended(standing),
        }
    }

    /// Logs a mesh peer at a limited rate, because mesh peers connect and disconnect at will under
    /// any name.
    fn tell_mesh(&mut self, name: &str, address: SocketAddr, what: &str) {
        let (name, what) = (one_line(name), one_line(what));
        let line = format!("the mesh peer {name} at {address} is {what}");
        // A peer that does not listen has another port each time, so the port is not part of the
        // subject.
        if self.is_told(&format!("{what} {} {name}", address.ip())) {
            tracing::info!("{line}");
        } else {
            tracing::debug!("{line}");
        }
    }

    /// Logs a failed read at a limited rate, because a program may try to read a file for hours.
    fn tell_failed_read(&mut self, path: &str, failure: ReadFailure, why: &str) {
        let (errno, reason) = (failure.errno(), failure.name());
        let line = format!("a read of {path} failed: {}", one_line(why));
        let now = Instant::now();
        if self.failed_reads.is_told(now, &format!("{reason} {path}")) {
            tracing::info!(path, errno, reason, "{line}");
        } else {
            tracing::debug!(path, errno, reason, "{line}");
        }
        if let Some(count) = self.failed_reads.sum(now) {
            tracing::info!("{count} more reads failed: log.level debug shows them");
        }
    }

    fn tell_push(&mut self, way: &str, push: &Push) {
        let name = one_line(&String::from_utf8_lossy(&push.name));
        let (peer, bytes) = (one_line(&push.peer), push.size_bytes);
        match &push.stage {
            PushStage::Started => tracing::debug!(bytes, "pushing {name} {way} {peer}"),
            PushStage::Done => tracing::info!(bytes, "pushed {name} {way} {peer}"),
            PushStage::Failed(why) => {
                let line = format!("not pushed {name} {way} {peer}: {}", one_line(why));
                if self.is_told(&format!("not pushed {way} {peer}")) {
                    tracing::info!(bytes, "{line}");
                } else {
                    tracing::debug!(bytes, "{line}");
                }
            }
        }
    }

    /// Returns whether a line about a mesh peer or a failed push is logged at INFO. Also logs the
    /// number of lines that were not, from time to time.
    fn is_told(&mut self, subject: &str) -> bool {
        let now = Instant::now();
        let is_told = self.paced.is_told(now, subject);
        if let Some(count) = self.paced.sum(now) {
            tracing::info!(
                "{count} more lines about mesh peers and failed pushes: log.level debug shows them"
            );
        }
        is_told
    }

    fn begin(&mut self, fetched: &Fetched) {
        if self.begun.len() < FETCHES_TIMED_MAX {
            self.begun.insert(fetched.hash, Instant::now());
        }
        let path = path(fetched);
        tracing::debug!(path, "fetching {path}");
    }

    /// Returns the duration of a fetch in microseconds; 0 if its start was not recorded.
    fn end(&mut self, hash: &ContentHash) -> u64 {
        let begun = self.begun.remove(hash);
        let took = begun.map_or(0, |begun| begun.elapsed().as_micros());
        u64::try_from(took).unwrap_or(u64::MAX)
    }
}

/// Returns the name of the fetched file at the time of the fetch; its hash if it had none.
fn path(fetched: &Fetched) -> String {
    let name = fetched.name.as_ref();
    name.map_or_else(
        || fetched.hash.to_string(),
        |path| one_line(&String::from_utf8_lossy(path.as_bytes())),
    )
}

async fn tell_newcomer(services: Arc<Services>, who: Who) {
    tell_peer(&news::named(&services, who, true).await, "is alive");
}

fn tell_peer(who: &Who, what: &str) {
    let name = name(who);
    tracing::info!(peer = %who.node, peer_name = name, "{name} {what}");
}

/// Escapes characters that could begin a new line of the log or control the terminal. Names are
/// bytes that other nodes choose.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if is_trick(letter) {
            line.extend(letter.escape_default())
        } else {
            line.push(letter)
        }
    }
    line
}

fn name(who: &Who) -> String {
    let name = who.name.as_deref().map(one_line);
    name.unwrap_or_else(|| format!("node {}", who.node.short(8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_newlines_or_escapes_stays_on_its_log_line() {
        assert_eq!(one_line("a\nWARN b\x1b[2J"), "a\\nWARN b\\u{1b}[2J");
        assert_eq!(one_line("a\u{202e}b\u{2028}c"), "a\\u{202e}b\\u{2028}c");
        assert_eq!(
            one_line("snow \u{2603}: left out"),
            "snow \u{2603}: left out"
        );
    }

    #[test]
    fn the_catalog_explains_exactly_the_used_message_ids() {
        let catalog = include_str!("../../../packaging/p2pfs.catalog");
        let entries = catalog.lines().filter_map(|line| line.strip_prefix("-- "));
        let mut explained: Vec<&str> = entries.collect();
        explained.sort_unstable();
        let conditions = p2pfs_node::Condition::ALL.iter();
        let conditions = conditions.map(|it| it.text().message_id);
        let mut told: Vec<&str> = message::ALL.into_iter().chain(conditions).collect();
        told.sort_unstable();
        assert_eq!(explained, told);
        for id in told {
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()));
            let entry = catalog.split("-- ").find(|entry| entry.starts_with(id));
            let entry = entry.unwrap();
            assert!(entry.contains("\nSubject: ") && entry.contains("\nDefined-By: p2pfs\n"));
        }
    }
}
