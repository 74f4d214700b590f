//! Requests that wait for a query of foreign peers, by the name of the root that they ask for.
//!
//! A node of the cluster may share the name in the meantime. The request then ends with
//! [`FsError::Gone`], for which the kernel looks the name up again.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::FsError;
use super::traits::LaterReply;

type RequestsByName = HashMap<Box<[u8]>, Vec<Arc<dyn EndEarly>>>;

/// The names with running queries.
#[derive(Default)]
pub(super) struct RunningQueries(Mutex<RequestsByName>);

impl RunningQueries {
    /// Adds a query of a name, whose request waits for `reply`.
    pub(super) fn begin<T: 'static>(&self, name: &[u8], reply: LaterReply<T>) -> Arc<Waiting<T>> {
        let waiting = Arc::new(Waiting(Mutex::new(Some(reply))));
        let mut queries = self.0.lock();
        let of_name = queries.entry(name.into()).or_default();
        of_name.push(waiting.clone());
        waiting
    }

    /// Removes a query. Returns whether no other query of the name runs.
    pub(super) fn end<T: 'static>(&self, name: &[u8], waiting: &Arc<Waiting<T>>) -> bool {
        let mut queries = self.0.lock();
        let Some(of_name) = queries.get_mut(name) else {
            return false;
        };
        of_name.retain(|it| !std::ptr::addr_eq(Arc::as_ptr(it), Arc::as_ptr(waiting)));
        let is_last = of_name.is_empty();
        if is_last {
            queries.remove(name);
        }
        is_last
    }

    /// Returns whether a query of this name runs.
    pub(super) fn is_running(&self, name: &[u8]) -> bool {
        self.0.lock().contains_key(name)
    }

    /// Ends the requests for all names for which `is_shared` returns true.
    pub(super) fn end_shared(&self, is_shared: impl Fn(&[u8]) -> bool) {
        let queries = self.0.lock();
        let shared = queries.iter().filter(|(name, _)| is_shared(name));
        let ended: Vec<_> = shared.flat_map(|(_, it)| it.iter().cloned()).collect();
        drop(queries);
        ended.iter().for_each(|waiting| waiting.end_early());
    }
}

/// Ends a request before its query ends.
trait EndEarly: Send + Sync {
    fn end_early(&self);
}

/// A request that waits for a query.
pub(super) struct Waiting<T>(Mutex<Option<LaterReply<T>>>);

impl<T> Waiting<T> {
    /// Replies with the result, unless the request has ended. `result` is not called then.
    pub(super) fn reply(&self, result: impl FnOnce() -> Result<T, FsError>) {
        let reply = self.0.lock().take();
        if let Some(reply) = reply {
            reply(result());
        }
    }
}

impl<T> EndEarly for Waiting<T> {
    fn end_early(&self) {
        self.reply(|| Err(FsError::Gone));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_request_ends_once_and_its_query_runs_until_it_is_removed() {
        let (queries, (told, heard)) = (RunningQueries::default(), mpsc::channel());
        let begin = |name: &[u8], what: u8| {
            let told = told.clone();
            let reply = move |result: Result<u8, FsError>| told.send((what, result)).unwrap();
            queries.begin(name, Box::new(reply))
        };
        let (first, second) = (begin(b"shared", 1), begin(b"shared", 2));
        let other = begin(b"other", 3);
        first.reply(|| Ok(7));
        queries.end_shared(|name| name == b"shared");
        second.reply(|| Ok(8));
        let ended: Vec<_> = heard.try_iter().collect();
        assert_eq!(ended, [(1, Ok(7)), (2, Err(FsError::Gone))]);
        assert!(!queries.end(b"shared", &first), "another query runs");
        assert!(queries.is_running(b"shared"));
        assert!(queries.end(b"shared", &second));
        assert!(!queries.is_running(b"shared"));
        assert!(queries.end(b"other", &other));
    }
}
