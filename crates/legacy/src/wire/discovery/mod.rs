//! The legacy peers' discovery protocol: text datagrams, and one file per TCP connection.
//!
//! This is the only module with the texts and limits of that protocol. The original programs
//! understand everything that is encoded here. Decoding tolerates the forms in which they write:
//! any line end, surrounding blanks, an absent transfer method, garbage in lists. Like the original
//! programs, this module supports IPv4 only.

pub mod address;
pub mod message;
mod name;
pub mod transfer;

pub use address::{HOST_MAX_BYTES, MemberName};
pub use message::{
    Datagram, LISTED_MAX, RECEIVED_MAX_BYTES, SENT_MAX_BYTES, encode_file, encode_get,
    encode_lists, is_legacy_datagram,
};
pub use name::{NAME_FIELD_BYTES, Name, NameError, printable};
pub use transfer::{
    HEADER_BYTES, HeaderError, REQUEST_MAX_BYTES, SIZE_MAX_BYTES, TransferHeader, decode_request,
    encode_request,
};
