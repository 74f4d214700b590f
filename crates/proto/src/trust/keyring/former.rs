//! Names that the settings of this node gave in an earlier cluster.
//!
//! A name in the settings, such as that of a reader, means a member of the cluster in which it was
//! given. After a change of the cluster it means no member until it is confirmed. Otherwise a node
//! of the new cluster would get the rights of another one by its name alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::{Keyring, LEDGER_MAX_BYTES};
use crate::trust::ledger::Ledger;
use crate::trust::statement::Claim;
use crate::trust::{TrustError, file};

/// Name of the file of these names within the state directory, one name a line.
const FORMER_NAMES_FILE: &str = "former-names";

/// Reads the names of an earlier cluster from the state directory.
///
/// # Errors
/// Those of [`file::read`], and [`TrustError::BadFile`] if the file is not text.
pub(super) fn read_former_names(directory: &Path) -> Result<BTreeSet<String>, TrustError> {
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

/// Returns whether the cluster ever had a second node, which names in settings can mean.
pub(super) fn had_others(ledger: &Ledger) -> bool {
    let mut statements = ledger.statements();
    statements.any(|it| matches!(it.statement.claim, Claim::Admit { .. }))
}

impl Keyring {
    /// Returns whether the settings gave this name in an earlier cluster, and it was not confirmed
    /// since.
    pub fn is_former_name(&self, name: &str) -> bool {
        self.former_names.read().contains(name)
    }

    /// Returns the names that the settings gave in an earlier cluster.
    pub fn former_names(&self) -> BTreeSet<String> {
        self.former_names.read().clone()
    }

    /// Keeps only some of the names of an earlier cluster. The others mean members of this cluster
    /// from now on.
    ///
    /// # Errors
    /// [`TrustError::File`]. All names stay as they were.
    pub fn retain_former_names(&self, is_former: impl Fn(&str) -> bool) -> Result<(), TrustError> {
        let _writing = self.writing.lock();
        let mut names = self.former_names();
        let before = names.len();
        names.retain(|name| is_former(name));
        if names.len() == before {
            return Ok(());
        }
        self.set_former_names(names)?;
        self.revision.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Adds the names that the settings give to those of an earlier cluster. The caller holds the
    /// lock for writing.
    pub(super) fn add_former_names(&self, given: &BTreeSet<String>) -> Result<(), TrustError> {
        let mut names = self.former_names();
        let before = names.len();
        names.extend(given.iter().filter(|it| !it.contains('\n')).cloned());
        if names.len() == before {
            return Ok(());
        }
        self.set_former_names(names)
    }

    fn set_former_names(&self, names: BTreeSet<String>) -> Result<(), TrustError> {
        if let Some(directory) = self.storage_directory() {
            let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
            file::replace(&directory.join(FORMER_NAMES_FILE), lines.as_bytes())?;
        }
        *self.former_names.write() = names;
        Ok(())
    }
}
