//! The extended attributes by which a file in an inbox names its sender.

use std::fs::File;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr, lgetxattr};

use super::origin::ChargedSender;
use p2pfs_proto::wire::native::record::{SENDER_MAX_BYTES, Sender};

/// Extended attribute with the name of the sender.
pub const SENDER_ATTRIBUTE: &str = "user.p2pfs.from";
/// Extended attribute with the sender's key, if the sender is a node of the cluster.
const SENDER_KEY_ATTRIBUTE: &str = "user.p2pfs.from_node";
/// Extended attribute with the sender's address, for a sender that only its address identifies
/// ([`ChargedSender`]).
const SENDER_ADDRESS_ATTRIBUTE: &str = "user.p2pfs.from_address";

/// Records the sender of a file: its name `called`, and its key if it is a node. On a filesystem
/// without extended attributes the file is kept without them.
pub(super) fn write_sender(file: &File, from: &Sender, called: &str) {
    let called = &called[..called.floor_char_boundary(SENDER_MAX_BYTES)];
    let write = |attribute, value: &str| {
        let _without = fsetxattr(file, attribute, value.as_bytes(), XattrFlags::empty());
    };
    write(SENDER_ATTRIBUTE, called);
    if let Sender::Node(node) = from {
        write(SENDER_KEY_ATTRIBUTE, &node.to_string());
    }
}

/// Records the address of a sender that only its address identifies, for the next scan of the
/// folder. On a filesystem without extended attributes the file is kept without it.
pub(super) fn write_address(file: &File, origin: ChargedSender) {
    if let ChargedSender::Address(ip) = origin {
        let value = ip.to_string();
        let flags = XattrFlags::empty();
        let _without = fsetxattr(file, SENDER_ADDRESS_ATTRIBUTE, value.as_bytes(), flags);
    }
}

/// Returns the sender to which the space of a file in an inbox is charged, if it is recorded.
pub(super) fn origin_of(path: &Path) -> Option<ChargedSender> {
    let read = |attribute| {
        let mut value = [0; SENDER_MAX_BYTES];
        // Fails on a symbolic link, which has no `user.` attributes, and opens no file.
        let length = lgetxattr(path, attribute, &mut value[..]).ok()?;
        String::from_utf8(value[..length].to_vec()).ok()
    };
    let address = read(SENDER_ADDRESS_ATTRIBUTE).and_then(|ip| ip.parse().ok());
    let node = || {
        read(SENDER_KEY_ATTRIBUTE)?
            .parse()
            .ok()
            .map(ChargedSender::Node)
    };
    address.map(ChargedSender::Address).or_else(node)
}

/// Returns the sender of a file that is in an inbox, or was moved from there. Returns `None` if the
/// file was not pushed or its sender was not recorded.
pub fn sender_of(file: &File) -> Option<Sender> {
    let read = |attribute| {
        let mut value = vec![0; SENDER_MAX_BYTES];
        let length = fgetxattr(file, attribute, &mut value[..]).ok()?;
        value.truncate(length);
        String::from_utf8(value).ok()
    };
    match read(SENDER_KEY_ATTRIBUTE).and_then(|key| key.parse().ok()) {
        Some(node) => Some(Sender::Node(node)),
        None => read(SENDER_ATTRIBUTE).map(Sender::Peer),
    }
}
