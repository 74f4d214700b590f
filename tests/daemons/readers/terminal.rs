//! A terminal of the test, with a program on it.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::process::{HANG_LIMIT, fork};

/// How long to wait for output after a program's end.
const SETTLED: Duration = Duration::from_millis(300);

pub(crate) struct Terminal {
    /// The side of the user.
    person: File,
    /// The side of the program. It stays open so that no output is lost at the program's end.
    program: OwnedFd,
    shown: Vec<u8>,
    more: mpsc::Receiver<Vec<u8>>,
}

impl Terminal {
    pub(crate) fn open(rows: u16, columns: u16) -> Self {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let (mut person, mut program) = (0, 0);
        // SAFETY: the call fills two descriptors that are not used elsewhere, and reads the size.
        let opened = unsafe {
            libc::openpty(
                &raw mut person,
                &raw mut program,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: both were just opened and have no other owner.
        let (person, program) =
            unsafe { (File::from_raw_fd(person), OwnedFd::from_raw_fd(program)) };
        // A program that inherits the user's side would never see its end.
        let (person, program) = (person.try_clone().unwrap(), program.try_clone().unwrap());
        let (tell, more) = mpsc::channel();
        let mut seen = person.try_clone().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = seen.read(&mut buffer) {
                if tell.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            person,
            program,
            shown: Vec::new(),
            more,
        }
    }

    /// Runs a program that has this terminal as its controlling terminal.
    pub(crate) fn run(&self, command: &mut Command) -> Child {
        let side = || self.program.try_clone().unwrap();
        command.stdin(side()).stdout(side()).stderr(side());
        // SAFETY: only async-signal-safe calls are made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        fork(command).unwrap()
    }

    /// Waits until the program has written this text, after the text of the wait before.
    #[track_caller]
    pub(crate) fn read_until(&mut self, text: &str) {
        let deadline = Instant::now() + HANG_LIMIT;
        while !self.shown().contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.more.recv_timeout(left) {
                Ok(bytes) => self.shown.extend(bytes),
                Err(error) => panic!("{text:?} never came: {error}: {:?}", self.shown()),
            }
        }
    }

    /// Waits until the output has stopped after the program's end.
    pub(crate) fn settle(&mut self) {
        while let Ok(bytes) = self.more.recv_timeout(SETTLED) {
            self.shown.extend(bytes);
        }
    }

    /// Returns all output so far.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// Presses keys.
    pub(crate) fn write(&mut self, keys: &[u8]) {
        self.person.write_all(keys).unwrap();
    }

    /// Returns the settings for lines, keys and echo.
    pub(crate) fn settings(&self) -> [u32; 4] {
        // SAFETY: a plain struct of numbers, which the call fills.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and the struct is ours.
        let got = unsafe { libc::tcgetattr(self.program.as_fd().as_raw_fd(), &raw mut settings) };
        assert_eq!(got, 0);
        let libc::termios {
            c_iflag,
            c_oflag,
            c_cflag,
            c_lflag,
            ..
        } = settings;
        [c_iflag, c_oflag, c_cflag, c_lflag]
    }
}
