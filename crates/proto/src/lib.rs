//! Trust statements (keys, invitations, the ledger of members) and every format that native nodes
//! exchange.

pub mod trust;
pub mod wire;
