//! Guarantees of the TCP side to the node and to the outside.

mod broken;
mod enrolment;
mod failures;
mod floods;
mod harness;
mod hostile;
mod mark;
mod probing;
mod records;
mod requests;
mod strangers;
mod symmetric;
mod trickle;
