//! Peers that speak the older protocols: they are read, served, and borne when they misbehave.

mod hostile;
mod mixed;
mod mount;
mod peers;
mod shell;
mod strangers;
