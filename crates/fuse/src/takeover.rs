//! Takeover of a mount that another process served, with waiting readers.
//!
//! The session receives the handshake of the previous process ([`super::greeting`]). Then the
//! kernel resends the requests that the previous process had taken and not answered (Linux 6.9).

use std::io::{self, IoSlice};

use super::abi::{self, RequestHeader, opcode};
use super::device::Device;
use super::saved_init::SavedInit;

impl Device {
    /// Sends the kept handshake request of the previous process to the session.
    pub(super) fn repeat_greeting(&self, kept: &SavedInit) -> io::Result<()> {
        let header = RequestHeader::parse(&kept.request).filter(|it| it.opcode == opcode::INIT);
        let header = header.ok_or(io::ErrorKind::InvalidData)?;
        if self.expect(&header) && self.ask_session(&kept.request) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    /// Makes the kernel resend the unanswered requests of the previous process. Before Linux 6.9 it
    /// cannot; such a request then waits until a signal or the end of the mount.
    pub(super) fn ask_again(&self) -> io::Result<()> {
        Ok(self.write(&[IoSlice::new(&abi::resend())])?)
    }
}
