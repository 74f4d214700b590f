//! Sealed datagrams of the native plane.
