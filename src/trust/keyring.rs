//! The epochs that a node is a member of.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

use super::{EpochSecret, TrustError, file};
use crate::id::{EpochId, from_hex, to_hex};

/// The name of the secrets' file within the state directory.
const FILE_NAME: &str = "secrets";
/// How many epochs are remembered; the oldest is forgotten beyond it.
pub const MAX_EPOCHS: usize = 8;
/// What a line of a secret file holds.
const EXPECTED: &str = "64 hexadecimal digits and a newline";

/// Where the secrets are kept.
#[derive(Debug)]
enum Home {
    /// In our state directory.
    State(PathBuf),
    /// In a file that the administrator gave.
    Given(PathBuf),
    /// Nowhere.
    Memory,
}

/// The secrets of the epochs that this node knows, the current one first.
#[derive(Debug)]
pub struct Keyring {
    epochs: RwLock<Vec<Arc<EpochSecret>>>,
    home: Home,
}

impl Keyring {
    /// The secrets kept in `directory` (file `secrets`, one line of 64 hexadecimal digits each, the
    /// current first, mode 0600); at the first call one is made there.
    ///
    /// # Errors
    /// [`TrustError::Exposed`], [`TrustError::BadFile`], [`TrustError::File`].
    pub fn load_or_create(directory: &Path) -> Result<Self, TrustError> {
        let path = directory.join(FILE_NAME);
        if file::read(&path)?.is_none() {
            file::create(&path, &lines(&[Arc::new(EpochSecret::random())]))?;
        }
        let epochs = read_lines(&path, MAX_EPOCHS)?;
        Ok(Self {
            epochs: RwLock::new(epochs),
            home: Home::State(path),
        })
    }

    /// The one secret in a file given by hand: 64 hexadecimal digits and a newline, mode 0600.
    ///
    /// # Errors
    /// [`TrustError::Exposed`], [`TrustError::BadFile`], [`TrustError::File`].
    pub fn from_secret_file(path: &Path) -> Result<Self, TrustError> {
        let epochs = read_lines(path, 1)?;
        Ok(Self {
            epochs: RwLock::new(epochs),
            home: Home::Given(path.into()),
        })
    }

    /// One secret that is kept nowhere.
    pub fn in_memory(secret: EpochSecret) -> Self {
        Self {
            epochs: RwLock::new(vec![Arc::new(secret)]),
            home: Home::Memory,
        }
    }

    /// The secret that we prove and seal with.
    pub fn current(&self) -> Arc<EpochSecret> {
        Arc::clone(&self.read()[0])
    }

    /// The secret of an epoch that we know.
    pub fn by_id(&self, id: EpochId) -> Option<Arc<EpochSecret>> {
        self.read()
            .iter()
            .find(|secret| secret.id() == id)
            .map(Arc::clone)
    }

    /// All secrets, the current one first; at most [`MAX_EPOCHS`].
    pub fn all(&self) -> Vec<Arc<EpochSecret>> {
        self.read().clone()
    }

    /// Makes a secret the current one, and keeps it.
    ///
    /// # Errors
    /// [`TrustError::Given`] where the secret comes from a file given by hand,
    /// [`TrustError::File`]; the current secret is then still the old one.
    pub fn add(&self, secret: EpochSecret) -> Result<(), TrustError> {
        let mut epochs = self.epochs.write().unwrap_or_else(PoisonError::into_inner);
        let mut next: Vec<_> = epochs
            .iter()
            .filter(|known| ***known != secret)
            .map(Arc::clone)
            .collect();
        next.insert(0, Arc::new(secret));
        next.truncate(MAX_EPOCHS);
        match &self.home {
            Home::State(path) => file::replace(path, &lines(&next))?,
            Home::Given(path) => return Err(TrustError::Given { path: path.clone() }),
            Home::Memory => {}
        }
        *epochs = next;
        Ok(())
    }

    /// Forgets the secrets that are kept: the next start makes a new one, and is no member of what
    /// this one was. Until then they serve as before, to say farewell with. False where they come
    /// from a file given by hand, which is not ours to remove.
    ///
    /// # Errors
    /// [`TrustError::File`]; the secrets are then still kept.
    pub fn forget(&self) -> Result<bool, TrustError> {
        match &self.home {
            Home::State(path) => file::remove(path).map(|()| true),
            Home::Given(_) => Ok(false),
            Home::Memory => Ok(true),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<EpochSecret>>> {
        self.epochs.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lines(epochs: &[Arc<EpochSecret>]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(epochs.len() * 65));
    for secret in epochs {
        let hex = Zeroizing::new(to_hex(secret.as_bytes()));
        text.extend_from_slice(hex.as_bytes());
        text.push(b'\n');
    }
    text
}

fn read_lines(path: &Path, most: usize) -> Result<Vec<Arc<EpochSecret>>, TrustError> {
    let bad_file = || TrustError::BadFile {
        path: path.into(),
        expected: EXPECTED,
    };
    let missing = || TrustError::NoSecretFile { path: path.into() };
    let content = file::read(path)?.ok_or_else(missing)?;
    let text = std::str::from_utf8(&content).map_err(|_| bad_file())?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let secret = |line| from_hex(line).map(|bytes| Arc::new(EpochSecret::new(bytes)));
    let epochs: Option<Vec<_>> = text.split('\n').map(secret).collect();
    let epochs = epochs.ok_or_else(bad_file)?;
    if epochs.len() > most {
        Err(bad_file())
    } else {
        Ok(epochs)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file_with(content: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("given");
        file::create(&path, content.as_bytes()).unwrap();
        (directory, path)
    }

    #[test]
    fn the_first_start_makes_a_secret_and_the_next_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = Keyring::load_or_create(directory.path()).unwrap().current();
        let again = Keyring::load_or_create(directory.path()).unwrap().current();
        assert_eq!(first, again);
    }

    #[test]
    fn an_added_secret_is_current_at_once_and_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let keyring = Keyring::load_or_create(directory.path()).unwrap();
        let old = keyring.current();
        keyring.add(EpochSecret::new([7; 32])).unwrap();
        for keyring in [keyring, Keyring::load_or_create(directory.path()).unwrap()] {
            assert_eq!(*keyring.current(), EpochSecret::new([7; 32]));
            assert_eq!(keyring.by_id(old.id()), Some(Arc::clone(&old)));
        }
    }

    #[test]
    fn adding_a_known_secret_only_moves_it_and_the_oldest_is_forgotten() {
        let keyring = Keyring::in_memory(EpochSecret::new([0; 32]));
        for byte in 1..=MAX_EPOCHS as u8 {
            keyring.add(EpochSecret::new([byte; 32])).unwrap();
        }
        assert_eq!(keyring.by_id(EpochSecret::new([0; 32]).id()), None);
        keyring.add(EpochSecret::new([1; 32])).unwrap();
        assert_eq!(keyring.all().len(), MAX_EPOCHS);
        assert_eq!(*keyring.current(), EpochSecret::new([1; 32]));
    }

    #[test]
    fn a_secret_file_holds_64_digits_and_a_newline() {
        let digits = "0123456789abcdefABCDEF".repeat(3)[..64].to_owned();
        let (_kept, path) = file_with(&format!("{digits}\n"));
        let secret = Keyring::from_secret_file(&path).unwrap().current();
        assert_eq!(to_hex(secret.as_bytes()), digits.to_lowercase());
        for bad in [
            "",
            "\n",
            "xyz\n",
            &digits[..63],
            &format!("{digits}\n{digits}\n"),
        ] {
            let (_kept, path) = file_with(bad);
            let error = Keyring::from_secret_file(&path).unwrap_err();
            assert!(
                matches!(error, TrustError::BadFile { .. }),
                "{bad:?} gave {error}"
            );
        }
    }

    #[test]
    fn a_secret_given_by_hand_is_not_replaced_by_a_token() {
        let digits = "ab".repeat(32);
        let (_kept, path) = file_with(&digits);
        let keyring = Keyring::from_secret_file(&path).unwrap();
        let refused = keyring.add(EpochSecret::random());
        assert!(matches!(refused, Err(TrustError::Given { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), digits);
        assert_eq!(to_hex(keyring.current().as_bytes()), digits);
    }

    #[test]
    fn forgotten_secrets_serve_to_the_end_and_are_not_there_at_the_next_start() {
        let directory = tempfile::tempdir().unwrap();
        let keyring = Keyring::load_or_create(directory.path()).unwrap();
        let before = keyring.current();
        assert!(keyring.forget().unwrap());
        assert_eq!(keyring.current().id(), before.id());
        let after = Keyring::load_or_create(directory.path()).unwrap();
        assert_ne!(after.current().id(), before.id());
    }

    #[test]
    fn a_secret_file_that_is_not_there_is_named() {
        let error = Keyring::from_secret_file(Path::new("/nonexistent/secret")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/secret"), "{error}");
        assert!(
            error.to_string().contains("64 hexadecimal digits"),
            "{error}"
        );
    }
}
