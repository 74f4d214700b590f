//! Serving a mount that another process served before, whose readers wait.
//!
//! The session hears the greeting of the process before ([`super::greeting`]). Then the kernel
//! sends again what that process had taken and not answered (Linux 6.9).

use std::io::{self, IoSlice};

use super::abi::{self, Header, opcode};
use super::device::Device;
use super::greeting::Greeting;

impl Device {
    /// Lets the session hear the greeting that the process before was given.
    pub(super) fn repeat_greeting(&self, kept: &Greeting) -> io::Result<()> {
        let header = Header::parse(&kept.request).filter(|it| it.opcode == opcode::INIT);
        let header = header.ok_or(io::ErrorKind::InvalidData)?;
        if self.expect(&header) && self.ask_session(&kept.request) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    /// Lets the kernel send again what the process before took and never answered. Before Linux
    /// 6.9 it cannot, and who waits for such a request waits until a signal or the mount's end.
    pub(super) fn ask_again(&self) -> io::Result<()> {
        Ok(self.write(&[IoSlice::new(&abi::resend())])?)
    }
}
