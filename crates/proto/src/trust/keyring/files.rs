//! The files of a keyring in the state directory: one line with the secret, the statements one
//! after the other, and the names of earlier clusters. A configured secret file is read only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::trust::ledger::{Certificate, Ledger, STATEMENTS_MAX};
use crate::trust::statement::{STATEMENT_MAX_BYTES, SignedStatement};
use crate::trust::{EpochSecret, NodeKey, TrustError, file};
use p2pfs_types::id::{NodeName, from_hex, to_hex};

/// Name of the secret's file within the state directory.
pub(super) const SECRET_FILE: &str = "secrets";
/// Name of the ledger's file within the state directory.
pub(super) const LEDGER_FILE: &str = "members";
/// Name of the file of the names of earlier clusters within the state directory, one name a line.
const FORMER_NAMES_FILE: &str = "former-names";
/// Maximum size of the ledger's file and of the file of former names in bytes.
const LEDGER_MAX_BYTES: u64 = (STATEMENTS_MAX * STATEMENT_MAX_BYTES) as u64;
/// Expected content of a secret file.
const EXPECTED: &str = "64 hexadecimal digits and a newline";

/// The files of a keyring in a state directory. Their owner writes them on a thread that may wait.
#[derive(Clone, Debug)]
pub struct KeyringFiles {
    directory: PathBuf,
}

/// The secret, the ledger and the names of earlier clusters that a state directory contains.
#[derive(Clone, Debug)]
pub struct StoredTrust {
    /// The newest secret.
    pub secret: EpochSecret,
    /// The ledger.
    pub ledger: Ledger,
    /// Names that the settings gave in an earlier cluster.
    pub former_names: BTreeSet<String>,
}

/// A change of the files: what is given replaces the file.
#[derive(Clone, Debug, Default)]
pub struct TrustWrite {
    /// The names of earlier clusters. They are stored before the rest: a crash in between leaves too
    /// many names without a meaning, not too few.
    pub former_names: Option<Arc<BTreeSet<String>>>,
    /// The newest secret.
    pub secret: Option<EpochSecret>,
    /// The ledger.
    pub ledger: Option<Ledger>,
    /// Whether the secret and the ledger are removed. Neither is given then.
    pub removes_membership: bool,
}

impl KeyringFiles {
    /// Checks a configured file with a secret.
    ///
    /// # Errors
    /// Those of [`Keyring::from_secret_file`](super::Keyring::from_secret_file).
    pub fn check_secret_file(path: &Path) -> Result<(), TrustError> {
        read_secret(path).map(drop)
    }

    /// Returns whether [`Keyring::load_or_create`](super::Keyring::load_or_create) would remove the
    /// secret in `directory`, because it has no ledger beside it.
    pub fn drops_secret(directory: &Path) -> bool {
        directory.join(SECRET_FILE).exists() && !directory.join(LEDGER_FILE).exists()
    }

    /// Reads the members' certificates of a node that does not run, from its state directory.
    /// Writes nothing. A directory without a ledger has none.
    ///
    /// # Errors
    /// [`TrustError::Exposed`], [`TrustError::BadFile`], [`TrustError::File`].
    pub fn certificates_in(directory: &Path) -> Result<Vec<Certificate>, TrustError> {
        let members = directory.join(LEDGER_FILE);
        let Some(bytes) = file::read_up_to(&members, LEDGER_MAX_BYTES)? else {
            return Ok(Vec::new());
        };
        let ledger = read_ledger(&members, &bytes)?;
        Ok(ledger.members().cloned().collect())
    }

    /// Loads the state from `directory`, or founds a new cluster there, as
    /// [`Keyring::load_or_create`](super::Keyring::load_or_create) describes.
    ///
    /// # Errors
    /// [`TrustError::Exposed`], [`TrustError::BadFile`], [`TrustError::File`].
    pub(super) fn load_or_create(
        directory: &Path,
        key: &NodeKey,
        name: &NodeName,
        now_s: u64,
    ) -> Result<(StoredTrust, Self), TrustError> {
        let (secret, members) = (directory.join(SECRET_FILE), directory.join(LEDGER_FILE));
        let known = file::read_up_to(&members, LEDGER_MAX_BYTES)?;
        let is_new = known.is_none();
        let ledger = match known {
            Some(bytes) => read_ledger(&members, &bytes)?,
            None => {
                // A secret without a ledger belongs to a cluster in which this node cannot prove
                // membership.
                file::remove(&secret)?;
                let ledger = Ledger::found(key, name.clone(), now_s);
                file::replace(&members, &SignedStatement::encode_all(ledger.statements()))?;
                ledger
            }
        };
        let is_lost = file::read(&secret)?.is_none();
        if is_lost {
            file::create(&secret, &line(&EpochSecret::random()))?;
        }
        let secret = read_secret(&secret)?;
        let former_names = read_former_names(directory)?;
        let ledger = if is_lost && !is_new {
            stated_at_start(ledger, &members, |it| {
                it.signer(key, now_s).rotate(secret.id())
            })
        } else {
            stated_at_start(ledger, &members, |it| {
                it.signer(key, now_s).name_epoch(secret.id())
            })
        };
        let stored = StoredTrust {
            secret,
            ledger,
            former_names,
        };
        let directory = directory.to_owned();
        Ok((stored, Self { directory }))
    }

    /// Carries out a write, and waits for the disk.
    ///
    /// A secret is stored before the ledger. After a crash between the two, this node has a secret
    /// that no statement names, and requests the others' secret. In the reverse order, a stored
    /// statement could name a secret that no node has, and all nodes would look for it.
    ///
    /// # Errors
    /// [`TrustError::File`]. The secret and the ledger are as before, except that a removal may have
    /// removed the ledger.
    pub fn store(&self, write: &TrustWrite) -> Result<(), TrustError> {
        let path = |name| self.directory.join(name);
        if let Some(names) = &write.former_names {
            let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
            file::replace(&path(FORMER_NAMES_FILE), lines.as_bytes())?;
        }
        if write.removes_membership {
            file::remove(&path(LEDGER_FILE))?;
            file::remove(&path(SECRET_FILE))?;
        }
        let statements = |ledger: &Ledger| SignedStatement::encode_all(ledger.statements());
        match (&write.secret, &write.ledger) {
            (Some(secret), Some(ledger)) => file::replace_both(
                (&path(SECRET_FILE), &line(secret)),
                (&path(LEDGER_FILE), &statements(ledger)),
            ),
            (Some(secret), None) => file::replace(&path(SECRET_FILE), &line(secret)),
            (None, Some(ledger)) => file::replace(&path(LEDGER_FILE), &statements(ledger)),
            (None, None) => Ok(()),
        }
    }
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

fn read_ledger(path: &Path, bytes: &[u8]) -> Result<Ledger, TrustError> {
    let ledger = SignedStatement::decode_all(bytes, STATEMENTS_MAX).and_then(Ledger::of);
    ledger.ok_or_else(|| TrustError::BadFile {
        path: path.into(),
        expected: "a list of members",
        or: ", or move it aside, and join the cluster again",
    })
}

/// Reads the names of earlier clusters from the state directory; empty without the file.
///
/// # Errors
/// Those of [`file::read`], and [`TrustError::BadFile`] if the file is not text.
fn read_former_names(directory: &Path) -> Result<BTreeSet<String>, TrustError> {
    let path = directory.join(FORMER_NAMES_FILE);
    let Some(bytes) = file::read_up_to(&path, LEDGER_MAX_BYTES)? else {
        return Ok(BTreeSet::new());
    };
    let text = str::from_utf8(&bytes).map_err(|_| TrustError::BadFile {
        path: path.clone(),
        expected: "a list of names",
        or: "",
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Returns the ledger with the statements that this node makes at its start. If this node may not
/// make them, or they cannot be stored, returns the ledger unchanged, so that the start continues.
fn stated_at_start(
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
