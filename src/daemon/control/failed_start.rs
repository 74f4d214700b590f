//! The record of a start that failed, beside the control socket.
//!
//! The service manager keeps the control socket while it starts the daemon again and again, so a
//! caller connects and receives no answer. The caller then reads this record and reports the
//! reason. The daemon writes the record when a start fails under a service manager, and removes it
//! when it serves. Without a manager the error is on the user's terminal, and no record is written.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use p2pfs_types::age::age_text;
use p2pfs_types::files::{create_anew, open_own};

/// Maximum size of a record in bytes; the message of a failed start is one line.
const RECORD_MAX_BYTES: u64 = 16 * 1024;
/// Maximum length of the recorded reason in characters. In JSON, each takes at most 6 bytes.
const REASON_MAX_CHARS: usize = 2000;
/// Mode of the record: commands of all users read it.
const RECORD_MODE: u32 = 0o644;
/// Pause before the exit after the first failed start. Each further pause is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Maximum pause, so that a mended cause is noticed within half a minute.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long callers wait for the next start after a first failed start. The time covers
/// [`PAUSE_MIN`], the pause of the service manager and a start.
const SECOND_START_MAX: Duration = Duration::from_secs(2);

/// A start that failed, and the failed starts before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStart {
    /// Reason and remedy, in one line.
    pub reason: String,
    /// When the start failed.
    pub time: Timestamp,
    /// Number of starts that failed one after the other.
    pub count: u32,
    /// The step that starts the daemon once the cause is mended. `None` if the service manager
    /// tries again by itself.
    #[serde(default)]
    pub start_by_hand: Option<String>,
}

impl FailedStart {
    /// Returns the record beside this control socket. Returns `None` if there is none or it cannot
    /// be read.
    pub fn beside(socket: &Path) -> Option<Self> {
        let file = open_own(&path(socket)).ok()?;
        let mut bytes = Vec::new();
        file.take(RECORD_MAX_BYTES).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Returns the record beside the first of these sockets that has one, if the service manager
    /// does not try again.
    pub fn last_beside(sockets: &[PathBuf]) -> Option<Self> {
        let mut records = sockets.iter().filter_map(|socket| Self::beside(socket));
        records.find(|it| it.start_by_hand.is_some())
    }

    /// Records that a start failed for this reason. `start_by_hand` is the field of that name.
    ///
    /// # Errors
    /// The error of the system; the previous record then stays.
    pub fn record(socket: &Path, reason: &str, start_by_hand: Option<String>) -> io::Result<Self> {
        let before = Self::beside(socket).map_or(0, |before| before.count);
        let failed = Self {
            reason: reason.chars().take(REASON_MAX_CHARS).collect(),
            time: Timestamp::now(),
            count: before.saturating_add(1),
            start_by_hand,
        };
        failed.store(socket)?;
        Ok(failed)
    }

    /// Records that the daemon is started again, and returns the record before, if there is one. A
    /// start by hand counts as the first.
    pub fn begin_again(socket: &Path) -> Option<Self> {
        let before = Self::beside(socket)?;
        if before.start_by_hand.is_none() {
            return Some(before);
        }
        let again = Self {
            time: Timestamp::now(),
            count: 0,
            start_by_hand: None,
            ..before.clone()
        };
        if let Err(error) = again.store(socket) {
            tracing::warn!("the record of an earlier failed start stays: {error}");
        }
        Some(before)
    }

    fn store(&self, socket: &Path) -> io::Result<()> {
        let path = path(socket);
        let new = path.with_added_extension("new");
        let mut file = create_anew(&new, RECORD_MODE)?;
        // The service's umask takes the right to read from the mode of a new file.
        file.set_permissions(fs::Permissions::from_mode(RECORD_MODE))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, &path)
    }

    /// Removes the record, because the daemon serves, and returns it.
    pub fn clear(socket: &Path) -> Option<Self> {
        let last = Self::beside(socket);
        match fs::remove_file(path(socket)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("the record of an earlier failed start stays: {error}");
            }
            _ => {}
        }
        last
    }

    /// Returns whether callers should stop waiting for a daemon: no further start follows, several
    /// starts in a row failed, or no start succeeded within `SECOND_START_MAX` after the first
    /// failure.
    pub fn is_lasting(&self) -> bool {
        let age = Timestamp::now().duration_since(self.time).unsigned_abs();
        self.start_by_hand.is_some() || self.count > 1 || age >= SECOND_START_MAX
    }

    /// Describes how often the start was tried, when it was tried last, and when it is tried again.
    pub fn attempts(&self, now: Timestamp) -> String {
        let age = now.duration_since(self.time).unsigned_abs();
        let ago = age_text(age);
        let tried = match self.count {
            0 | 1 => format!("tried once, {ago} ago"),
            count => format!("tried {count} times, last {ago} ago"),
        };
        if self.start_by_hand.is_some() {
            format!("{tried}; not tried again until it is mended")
        } else if age < PAUSE_MAX {
            format!("{tried}; tried again within {}", age_text(PAUSE_MAX))
        } else {
            format!("{tried}; being tried again")
        }
    }

    /// Returns how long this process waits before it exits and is started again.
    pub fn pause(&self) -> Duration {
        let doublings = self.count.saturating_sub(1).min(u32::BITS - 1);
        PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX)
    }
}

/// Returns the path of the record for this control socket.
fn path(socket: &Path) -> PathBuf {
    socket.with_added_extension("failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_starts_are_counted_and_their_pauses_grow_up_to_the_maximum() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("p2pfs.sock");
        assert_eq!(FailedStart::beside(&socket), None);
        let pauses: Vec<_> = (0..10)
            .map(|_| FailedStart::record(&socket, "port 1378 is in use", None).unwrap())
            .map(|failed| failed.pause())
            .collect();
        assert_eq!(pauses[0], PAUSE_MIN);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[9], PAUSE_MAX);
        let last = FailedStart::beside(&socket).unwrap();
        assert_eq!((last.count, &*last.reason), (10, "port 1378 is in use"));
        assert!(last.is_lasting());
        assert_eq!(FailedStart::clear(&socket), Some(last));
        assert_eq!(FailedStart::beside(&socket), None);
        assert_eq!(FailedStart::clear(&socket), None);
    }

    #[test]
    fn a_single_failed_start_is_lasting_only_after_the_time_of_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut failed = FailedStart::record(&dir.path().join("p2pfs.sock"), "busy", None).unwrap();
        assert!(!failed.is_lasting());
        failed.time -= SECOND_START_MAX;
        assert!(failed.is_lasting());
    }

    #[test]
    fn repeated_starts_are_described_by_their_number_and_age() {
        let failed = |count| FailedStart {
            reason: "busy".to_owned(),
            time: Timestamp::UNIX_EPOCH,
            count,
            start_by_hand: None,
        };
        let after = |count, seconds| {
            let now = Timestamp::from_second(seconds).unwrap();
            failed(count).attempts(now)
        };
        let three = "tried 3 times, last 12 s ago; tried again within 30 s";
        assert_eq!(after(3, 12), three);
        assert_eq!(after(1, 2), "tried once, 2 s ago; tried again within 30 s");
        let slow = "tried 3 times, last 2 min ago; being tried again";
        assert_eq!(after(3, 120), slow);
        let last = FailedStart {
            start_by_hand: Some("systemctl start p2pfs".to_owned()),
            ..failed(1)
        };
        let once = "tried once, 2 s ago; not tried again until it is mended";
        assert_eq!(last.attempts(Timestamp::from_second(2).unwrap()), once);
        assert!(last.is_lasting());
    }

    #[test]
    fn a_start_by_hand_is_not_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("p2pfs.sock");
        assert_eq!(FailedStart::begin_again(&socket), None);
        let by_hand = Some("start it".to_owned());
        let last = FailedStart::record(&socket, "key is damaged", by_hand).unwrap();
        let sockets = [dir.path().join("other.sock"), socket];
        assert_eq!(FailedStart::last_beside(&sockets).as_ref(), Some(&last));
        assert_eq!(FailedStart::begin_again(&sockets[1]), Some(last));
        assert_eq!(FailedStart::last_beside(&sockets), None);
        let again = FailedStart::beside(&sockets[1]).unwrap();
        assert!(!again.is_lasting(), "callers wait for the new start");
        let failed = FailedStart::record(&sockets[1], "port 1378 is in use", None).unwrap();
        assert_eq!(failed.count, 1);
    }

    #[test]
    fn a_record_of_an_earlier_version_means_that_further_starts_follow() {
        let record = r#"{"reason":"busy","time":"2026-01-01T00:00:00Z","count":2}"#;
        let failed: FailedStart = serde_json::from_str(record).unwrap();
        assert_eq!(failed.start_by_hand, None);
    }

    #[test]
    fn an_endless_reason_is_recorded_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("p2pfs.sock");
        FailedStart::record(&socket, &"\u{1}".repeat(100_000), None).unwrap();
        let failed = FailedStart::beside(&socket).unwrap();
        assert_eq!(failed.reason.chars().count(), REASON_MAX_CHARS);
    }
}
