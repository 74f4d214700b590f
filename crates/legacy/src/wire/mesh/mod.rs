//! The legacy peers' mesh protocol: lines of text over TCP, with payloads of counted bytes among
//! them.
//!
//! This is the only module with the texts and limits of that protocol. The original programs
//! understand everything that is encoded here. Decoding tolerates the forms in which they write:
//! any line end, surrounding blanks, garbage in lists. A [`Decoder`] returns the chunks of a file
//! piece by piece. It returns any other payload whole, or skips one over [`MESSAGE_MAX_BYTES`].

pub mod decoder;
pub mod file;
pub mod line;

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
