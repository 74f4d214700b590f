//! Trust statements (keys, invitations, the ledger of members) and every format that native nodes
//! exchange.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may read the clock")
)]

mod limits;
pub mod trust;
pub mod wire;

pub use limits::LIMITS;
