//! Hashes large files in turn: a part of each, then a part of the next. So no file, however large,
//! makes the others wait for its end.
//!
//! Each thread has at most [`UNDER_WAY_MAX`] files open at a time, and the outboards of all threads
//! on disk fit a budget. When either is exhausted, the largest file of the thread makes room for a
//! smaller one and restarts later. An error of one file ends only that file.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::at_work::HasherProgress;
use super::left_out::FILE_MAX_BYTES;
use super::outboards::Outboards;
use super::outcome::{FinishedRead, HashOutcome};
use super::part::OutboardBuilder;
use super::reading::{Job, open_job};
use super::shared::SharedState;
use super::underway::Underway;

/// Maximum files in progress on one thread.
pub(super) const UNDER_WAY_MAX: usize = 16;
/// Bytes read of a file in one round: some tenths of a second of a disk.
pub(super) const ROUND_BYTES: u64 = 64 << 20;

/// Files of one thread, the next one first.
#[derive(Default)]
pub(super) struct RoundRobin {
    files: VecDeque<Underway>,
    buffer: Vec<u8>,
}

impl RoundRobin {
    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns the maximum size of a file for which there is room now. The budget of the outboards
    /// may be too small for it nevertheless.
    pub(super) fn room_for_bytes(&self) -> u64 {
        if self.files.len() < UNDER_WAY_MAX {
            u64::MAX
        } else {
            self.largest_bytes().saturating_sub(1)
        }
    }

    fn largest_bytes(&self) -> u64 {
        let sizes = self.files.iter().map(|file| file.opened.size_bytes());
        sizes.max().unwrap_or(0)
    }

    /// Accepts a file, which is read next. Returns the files of which reading ended because of it,
    /// which may include the file itself.
    pub(super) fn begin(&mut self, shared: &SharedState, job: Job) -> Vec<FinishedRead> {
        let mut ended = Vec::new();
        let opened = match open_job(shared, &job) {
            Ok(opened) => opened,
            Err(read) => return vec![*read],
        };
        let size_bytes = opened.size_bytes();
        if size_bytes > FILE_MAX_BYTES {
            // it grew since it was checked
            return vec![FinishedRead::of(job.taken.held, HashOutcome::Elsewhere)];
        }
        let start = job.known_start(shared, &opened);
        if start.is_none() && job.taken.held.busy && !job.taken.has_grown {
            // it is written in place, and would have changed again at the end of the read
            return vec![FinishedRead::of(job.taken.held, HashOutcome::Changed)];
        }
        if self.files.len() >= UNDER_WAY_MAX {
            ended.extend(self.put_back_one_over(size_bytes));
        }
        let part = self.part(&shared.outboards, size_bytes, &mut ended);
        let held = job.taken.held;
        match part.and_then(|part| Underway::begin(job, opened, part, start)) {
            Ok(file) => self.files.push_front(file),
            Err(_) => ended.push(FinishedRead::of(held, HashOutcome::Want)),
        }
        ended
    }

    /// Starts an outboard. Outboards of larger files make room for it.
    fn part(
        &mut self,
        outboards: &Arc<Outboards>,
        size_bytes: u64,
        ended: &mut Vec<FinishedRead>,
    ) -> io::Result<OutboardBuilder> {
        loop {
            match outboards.begin(size_bytes) {
                Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
                    match self.put_back_one_over(size_bytes) {
                        Some(read) => ended.push(read),
                        None => return Err(error),
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Abandons the largest file if it is larger than `size_bytes`. It is read again later.
    fn put_back_one_over(&mut self, size_bytes: u64) -> Option<FinishedRead> {
        let largest = self.largest_bytes();
        if largest <= size_bytes {
            return None;
        }
        let is_largest = |file: &Underway| file.opened.size_bytes() == largest;
        let place = self.files.iter().position(is_largest)?;
        let given_up = self.files.remove(place)?;
        Some(given_up.end(HashOutcome::Changed))
    }

    /// Returns the share of the next file.
    pub(super) fn next_share(&self) -> Option<u16> {
        self.files.front().map(|file| file.job.share)
    }

    /// Reads a part of the next file. Returns the file if that was its end.
    pub(super) fn step(
        &mut self,
        shared: &SharedState,
        at_work: &HasherProgress,
    ) -> Option<FinishedRead> {
        let mut file = self.files.pop_front()?;
        let outcome = match file.read_on(shared, at_work, ROUND_BYTES, &mut self.buffer) {
            Ok(()) if file.has_more() => {
                self.files.push_back(file);
                return None;
            }
            Ok(()) => return Some(file.finish(shared)),
            Err(outcome) => outcome,
        };
        Some(file.end(outcome))
    }
}
