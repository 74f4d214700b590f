//! The two older text protocols: the discovery protocol (UDP questions, plain TCP transfers) and
//! the mesh (chat and pushed files).
//!
//! [`discovery`] and [`mesh`] are pure state machines, [`wire`] contains the formats and their
//! limits, and [`net`] the sockets.

pub mod discovery;
mod limits;
pub mod mesh;
pub mod net;
pub mod wire;

pub use limits::LIMITS;
