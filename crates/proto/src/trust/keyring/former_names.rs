//! Names that the settings of this node gave in an earlier cluster.
//!
//! A name in the settings, such as that of a reader, means a member of the cluster in which it was
//! given. After a change of the cluster it means no member until it is confirmed. Otherwise a node
//! of the new cluster would get, by its name alone, the rights of a node of the earlier one.

use std::collections::BTreeSet;

use parking_lot::RwLock;

use super::files::KeyringWriter;
use crate::trust::TrustError;
use crate::trust::ledger::Ledger;
use crate::trust::statement::Claim;

/// The names of earlier clusters that were not confirmed since.
#[derive(Debug, Default)]
pub struct FormerNames(RwLock<BTreeSet<String>>);

impl FormerNames {
    pub(super) fn new(names: BTreeSet<String>) -> Self {
        Self(RwLock::new(names))
    }

    /// Returns whether the settings gave this name in an earlier cluster, and it was not confirmed
    /// since.
    pub fn contains(&self, name: &str) -> bool {
        self.0.read().contains(name)
    }

    /// Returns a copy of the names.
    pub fn all(&self) -> BTreeSet<String> {
        self.0.read().clone()
    }

    /// Keeps only the names for which `is_former` is true. Returns whether any was dropped.
    ///
    /// # Errors
    /// [`TrustError::File`]. All names stay as they were.
    pub(super) fn retain(
        &self,
        writer: &KeyringWriter<'_>,
        is_former: impl Fn(&str) -> bool,
    ) -> Result<bool, TrustError> {
        self.change(writer, |names| names.retain(|name| is_former(name)))
    }

    /// Adds the names that the settings give, if the ledger of the cluster that this node leaves
    /// has an admission. Otherwise no name meant another node.
    ///
    /// # Errors
    /// [`TrustError::File`]. All names stay as they were.
    pub(super) fn add_of(
        &self,
        cluster: &Ledger,
        writer: &KeyringWriter<'_>,
        given: &BTreeSet<String>,
    ) -> Result<(), TrustError> {
        let mut statements = cluster.statements();
        if !statements.any(|it| matches!(it.statement.claim, Claim::Admit { .. })) {
            return Ok(());
        }
        let given = given.iter().filter(|it| !it.contains('\n')).cloned();
        self.change(writer, |names| names.extend(given)).map(drop)
    }

    /// Changes the names. Stores them if their number changed, and returns whether it did.
    fn change(
        &self,
        writer: &KeyringWriter<'_>,
        change: impl FnOnce(&mut BTreeSet<String>),
    ) -> Result<bool, TrustError> {
        let mut names = self.all();
        let before = names.len();
        change(&mut names);
        if names.len() == before {
            return Ok(false);
        }
        writer.store_former_names(&names)?;
        *self.0.write() = names;
        Ok(true)
    }
}
