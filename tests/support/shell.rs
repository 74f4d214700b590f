//! A prompt of an older program with simulated keyboard input.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;

use super::process::{HANG_LIMIT, eventually};

/// A prompt. The end of its input ends it and its daemon.
pub(crate) struct Shell {
    child: Child,
    keyboard: Option<ChildStdin>,
    screen: Arc<Mutex<Vec<String>>>,
    seen: usize,
}

impl Shell {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (lines, shown) = (BufReader::new(child.stdout.take().unwrap()), screen.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                shown.lock().push(line);
            }
        });
        Self {
            keyboard: child.stdin.take(),
            child,
            screen,
            seen: 0,
        }
    }

    pub(crate) fn types(&mut self, line: &str) {
        writeln!(self.keyboard.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits until the next lines are exactly these.
    #[track_caller]
    pub(crate) fn shows_next(&mut self, lines: &[&str]) {
        for line in lines {
            let at = self.seen;
            let next = || self.screen.lock().get(at).cloned();
            eventually(&format!("it shows {line:?}"), HANG_LIMIT, || {
                next().is_some()
            });
            assert_eq!(next().unwrap(), *line);
            self.seen += 1;
        }
    }

    /// Waits for a line that contains these words, at any position.
    #[track_caller]
    pub(crate) fn shows(&self, words: &str) {
        eventually(&format!("it shows {words}"), HANG_LIMIT, || {
            self.screen.lock().iter().any(|line| line.contains(words))
        });
    }

    /// Returns whether all its output was waited for.
    pub(crate) fn is_all_seen(&self) -> bool {
        self.screen.lock().len() == self.seen
    }

    /// Sends SIGINT, as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        // SAFETY: the child was not waited for yet, so its pid is still its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the shell ends", HANG_LIMIT, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.keyboard = None;
        let _ended = self.child.wait();
    }
}
