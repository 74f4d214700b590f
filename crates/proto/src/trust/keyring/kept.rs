//! The two files of a keyring: one line with the secret, and the statements one after the other.

use std::path::Path;

use zeroize::Zeroizing;

use crate::trust::ledger::{Ledger, STATEMENTS_MAX};
use crate::trust::statement::SignedStatement;
use crate::trust::{EpochSecret, TrustError, file};
use p2pfs_types::id::{from_hex, to_hex};

/// Expected content of a secret file.
const EXPECTED: &str = "64 hexadecimal digits and a newline";

pub(super) fn read_ledger(path: &Path, bytes: &[u8]) -> Result<Ledger, TrustError> {
    let ledger = SignedStatement::decode_all(bytes, STATEMENTS_MAX).and_then(Ledger::of);
    ledger.ok_or_else(|| TrustError::BadFile {
        path: path.into(),
        expected: "a list of members",
        or: ", or move it aside, and join the cluster again",
    })
}

pub(super) fn line(secret: &EpochSecret) -> Zeroizing<Vec<u8>> {
    let hex = Zeroizing::new(to_hex(secret.as_bytes()));
    let mut text = Zeroizing::new(Vec::with_capacity(65));
    text.extend_from_slice(hex.as_bytes());
    text.push(b'\n');
    text
}

pub(super) fn read_secret(path: &Path) -> Result<EpochSecret, TrustError> {
    let bad_file = || TrustError::BadFile {
        path: path.into(),
        expected: EXPECTED,
        or: "",
    };
    let missing = || TrustError::NoSecretFile { path: path.into() };
    let content = file::read(path)?.ok_or_else(missing)?;
    let text = std::str::from_utf8(&content).map_err(|_| bad_file())?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    from_hex(text).map(EpochSecret::new).ok_or_else(bad_file)
}

/// Returns the ledger with the statements that this node makes at its start. If this node may not
/// make them, or they cannot be stored, returns the ledger unchanged, so that the start continues.
pub(super) fn stated_at_start(
    ledger: Ledger,
    path: &Path,
    say: impl FnOnce(&mut Ledger) -> Result<Vec<SignedStatement>, TrustError>,
) -> Ledger {
    let mut after = ledger.clone();
    let is_kept = match say(&mut after) {
        Ok(said) if said.is_empty() => return ledger,
        Ok(_) => file::replace(path, &SignedStatement::encode_all(after.statements())).is_ok(),
        Err(_) => false,
    };
    if is_kept { after } else { ledger }
}
