//! The legacy peers' discovery protocol: text datagrams, and one file a TCP connection.
//!
//! Owns every text of that protocol and every limit of it; the only place that spells it. What is
//! encoded here is what the old programs understand, what is decoded tolerates what they emit:
//! any line end, blanks around, missing fields, garbage in lists. IPv4 only, as they are.

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
