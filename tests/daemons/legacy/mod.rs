//! Peers that speak the legacy protocols: nodes read from them, serve them, and survive their
//! misbehaviour.

mod hostile;
mod limits;
mod mixed;
mod mount;
mod peers;
mod shell;
mod strangers;
