//! The legacy peers' mesh protocol: lines of text over TCP, and counted bytes among them.
//!
//! Owns every text of that protocol and every limit of it; the only place that spells it. What is
//! encoded here is what the old programs understand and survive, what is decoded tolerates what
//! they emit: any line end, blanks around, garbage in lists. Payloads are not held whole but where
//! they are short and of no file: a [`Decoder`] gives them piece by piece.

pub mod decoder;
pub mod file;
pub mod line;
pub mod name;

pub use decoder::{DecodeError, Decoder, HEAD_MAX_BYTES, Item, LINE_MAX_BYTES, MESSAGE_MAX_BYTES};
pub use file::{
    BYTES_MAX, CHUNK_MAX_BYTES, FileEnd, FileStart, Sha256, chunk_bytes, encode_chunk_head,
    encode_end, encode_message, encode_start, is_about_file,
};
pub use line::{
    CHAT_MAX_BYTES, DUPLICATE, Hello, ID_MAX_BYTES, LISTED_MAX, Line, MAX_PEERS,
    PEER_NAME_MAX_BYTES, PING, PONG, REQUEST_PEERS, encode_chat, encode_hello, encode_listen,
    encode_peers,
};
pub use name::{SENT_NAME_MAX_BYTES, numbered_name, received_name, sent_name};
