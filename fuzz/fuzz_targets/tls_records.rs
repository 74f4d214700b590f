//! Fuzzes the target of this name.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| p2pfs_fuzz::run("tls_records", bytes));
