//! (the room's documentation)

pub mod pulls;
