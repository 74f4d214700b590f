//! Keys, invitations and the ledger of members (`trust`), and the formats of the messages that
//! native nodes exchange (`wire`).

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may read the clock")
)]

mod limits;
pub mod trust;
pub mod wire;

pub use limits::LIMITS;
