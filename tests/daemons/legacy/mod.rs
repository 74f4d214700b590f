//! Peers that speak the legacy protocols: they are read, served, and borne when they misbehave.

mod hostile;
mod limits;
mod mixed;
mod mount;
mod peers;
mod shell;
mod strangers;
