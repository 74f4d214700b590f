//! Statistics of how fast and how reliably other nodes answer, kept over a restart.
//!
//! They are one value of the store with a version of its own. The value is worth little, so an
//! unreadable one does not fail the start: it is moved to another name and reported.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::file::encode;
use super::{Store, StoreError};
use p2pfs_fetch::{PEER_RECORDS_MAX, PeerRecord};
use p2pfs_types::id::NodeId;

const KEY: &str = "responders";
/// Name to which an unreadable value is moved. Only the last one is kept.
const ASIDE_KEY: &str = "responders aside";
const VERSION: u64 = 1;

/// A [`PeerRecord`] with times in Unix seconds instead of ages.
#[derive(Serialize, Deserialize)]
struct StoredResponder {
    node: NodeId,
    learnt_unix_s: u64,
    latency_us: Option<u64>,
    rate_bytes_per_s: Option<u64>,
    failures: u64,
    lies: u64,
    lied_unix_s: Option<u64>,
}

impl StoredResponder {
    fn of(record: &PeerRecord, unix_s: u64) -> Self {
        let date = |ago: Duration| unix_s.saturating_sub(ago.as_secs());
        let latency = record.latency.map(|latency| latency.as_micros());
        Self {
            node: record.node,
            learnt_unix_s: date(record.age),
            latency_us: latency.and_then(|us| u64::try_from(us).ok()),
            rate_bytes_per_s: record.rate_bytes_per_s.map(|rate| rate as u64),
            failures: record.failures,
            lies: record.lies,
            lied_unix_s: record.lied_ago.map(date),
        }
    }

    /// Returns the record with ages. A time ahead of the clock counts as now.
    fn record(&self, unix_s: u64) -> PeerRecord {
        let ago = |date: u64| Duration::from_secs(unix_s.saturating_sub(date));
        PeerRecord {
            node: self.node,
            age: ago(self.learnt_unix_s),
            latency: self.latency_us.map(Duration::from_micros),
            rate_bytes_per_s: self.rate_bytes_per_s.map(|rate| rate as f64),
            failures: self.failures,
            lies: self.lies,
            lied_ago: self.lied_unix_s.map(ago),
        }
    }
}

/// The responder statistics of an earlier run.
#[derive(Debug, Default)]
pub struct Responders {
    /// At most [`PEER_RECORDS_MAX`] records.
    pub records: Vec<PeerRecord>,
    /// The reason why the stored value was moved aside, if it was.
    pub set_aside: Option<String>,
}

impl Responders {
    /// Loads the responder statistics, with ages as of `unix_s`; empty if none were stored or
    /// they could not be read.
    ///
    /// # Errors
    /// [`StoreError`] of the store itself. An unreadable value is not an error.
    pub fn load(store: &mut Store, unix_s: u64) -> Result<Self, StoreError> {
        let Some(bytes) = store.value(KEY)? else {
            return Ok(Self::default());
        };
        match read(&bytes) {
            Ok(stored) => {
                let records = stored.iter().map(|it| it.record(unix_s)).collect();
                Ok(Self {
                    records,
                    set_aside: None,
                })
            }
            Err(why) => {
                store.file.put_value(ASIDE_KEY, &bytes)?;
                store
                    .file
                    .put_value(KEY, &encode(&(VERSION, Vec::<StoredResponder>::new())))?;
                Ok(Self {
                    records: vec![],
                    set_aside: Some(why),
                })
            }
        }
    }
}

/// Stores the responder statistics of the first [`PEER_RECORDS_MAX`] nodes.
///
/// # Errors
/// [`StoreError`].
pub fn save_responders(
    store: &mut Store,
    records: &[PeerRecord],
    unix_s: u64,
) -> Result<(), StoreError> {
    let kept = records.iter().take(PEER_RECORDS_MAX);
    let stored: Vec<_> = kept
        .map(|record| StoredResponder::of(record, unix_s))
        .collect();
    store.file.put_value(KEY, &encode(&(VERSION, stored)))
}

fn read(bytes: &[u8]) -> Result<Vec<StoredResponder>, String> {
    let damaged = |error: postcard::Error| format!("it is damaged ({error})");
    let (version, rest) = postcard::take_from_bytes::<u64>(bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(format!("it is of version {version}, not {VERSION}"));
    }
    let stored: Vec<StoredResponder> = postcard::from_bytes(rest).map_err(damaged)?;
    match stored.len() {
        0..=PEER_RECORDS_MAX => Ok(stored),
        count => Err(format!("it has {count} records, over {PEER_RECORDS_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 2_000_000_000;

    fn record(number: u8) -> PeerRecord {
        PeerRecord {
            node: NodeId::new([number; 32]),
            age: Duration::from_secs(60),
            latency: Some(Duration::from_micros(1234)),
            rate_bytes_per_s: Some(5e6),
            failures: 3,
            lies: 1,
            lied_ago: Some(Duration::from_secs(90)),
        }
    }

    fn stored(bytes: Option<&[u8]>) -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        if let Some(bytes) = bytes {
            store.set_value(KEY, bytes).unwrap();
        }
        (folder, store)
    }

    #[test]
    fn responder_records_keep_their_age_over_a_restart() {
        let (folder, mut store) = stored(None);
        assert!(
            Responders::load(&mut store, NOW)
                .unwrap()
                .records
                .is_empty()
        );
        let records = [record(1), record(2)];
        save_responders(&mut store, &records, NOW).unwrap();
        drop(store);
        let mut store = Store::open(folder.path()).unwrap();
        let read = Responders::load(&mut store, NOW + 100).unwrap();
        assert_eq!(read.set_aside, None);
        assert_eq!(read.records.len(), 2);
        let older = PeerRecord {
            age: Duration::from_secs(160),
            lied_ago: Some(Duration::from_secs(190)),
            ..record(1)
        };
        assert_eq!(read.records[0], older);
        // after the clock went back, ages are zero at least
        let back = Responders::load(&mut store, NOW - 1000).unwrap().records;
        assert_eq!(back[0].age, Duration::ZERO);
    }

    #[test]
    fn an_unreadable_record_is_set_aside_and_reported_and_does_not_stop_the_start() {
        let whole = encode(&(VERSION, vec![StoredResponder::of(&record(1), NOW)]));
        let foreign = encode(&(VERSION + 1, vec![7_u8; 40]));
        let mut trials = vec![foreign, vec![0xFF; 100], vec![]];
        trials.extend((1..whole.len()).map(|length| whole[..length].to_vec()));
        let (_folder, mut store) = stored(None);
        for bytes in trials {
            store.set_value(KEY, &bytes).unwrap();
            let read = Responders::load(&mut store, NOW).unwrap();
            assert!(read.records.is_empty() && read.set_aside.is_some());
            assert_eq!(store.value(ASIDE_KEY).unwrap(), Some(bytes));
            let again = Responders::load(&mut store, NOW).unwrap();
            assert_eq!(again.set_aside, None, "said once");
        }
    }

    #[test]
    fn records_beyond_the_limit_are_not_stored() {
        let (_folder, mut store) = stored(None);
        let many = vec![record(1); PEER_RECORDS_MAX + 5];
        save_responders(&mut store, &many, NOW).unwrap();
        assert_eq!(
            Responders::load(&mut store, NOW).unwrap().records.len(),
            PEER_RECORDS_MAX
        );
    }
}
