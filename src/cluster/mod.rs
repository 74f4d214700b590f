//! (the room's documentation)
