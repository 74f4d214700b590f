//! Files in a state directory and in a cache, written by any program.

use std::cell::OnceCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use p2pfs::daemon::config::saved;
use p2pfs_cache::{Cache, CacheConfig, CachedBytes};
use p2pfs_proto::trust::{Keyring, NodeKey};
use p2pfs_types::digest::{ContentHash, Outboard};
use p2pfs_types::extent::ByteRange;
use p2pfs_types::id::NodeName;
use p2pfs_types::pool::PiecePool;
use tempfile::TempDir;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// Returns the folder for files of a target on this thread, in memory if possible.
pub fn scratch() -> PathBuf {
    FOLDER.with(|folder| {
        let make = || {
            let in_memory = tempfile::tempdir_in("/dev/shm");
            in_memory
                .or_else(|_| tempfile::tempdir())
                .expect("a folder of our own")
        };
        folder.get_or_init(make).path().to_owned()
    })
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder of our own");
    fs::write(path, bytes).expect("a file of our own");
    let own = fs::Permissions::from_mode(0o600);
    fs::set_permissions(path, own).expect("a file of our own");
}

/// Loads the key, the secret, the ledger, the shares and the waiting token.
pub fn state(choose: &mut Unstructured<'_>) -> Result<()> {
    let dir = scratch().join("state");
    let _none = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder of our own");
    let files = [
        "node.key",
        "secrets",
        "members",
        "shares.toml",
        "join-token",
    ];
    for _ in 0..choose.int_in_range(1..=2)? {
        let name = choose.choose(&files)?;
        let length = choose.int_in_range(0..=choose.len())?;
        write(&dir.join(name), choose.bytes(length)?);
    }
    let _key = NodeKey::load_or_create(&dir);
    let key = Arc::new(NodeKey::from_seed(&[3; 32]));
    let name = NodeName::new("lab").expect("a name");
    if let Ok((keyring, _files)) = Keyring::load_or_create(&dir, key, &name, 1_000_000) {
        let ledger = keyring
            .view()
            .require_ledger()
            .expect("a state directory has a ledger");
        let _members = (ledger.members().count(), ledger.history());
        let _owners = ledger.owners().count();
    }
    {
        if let Ok(shares) = saved::load_shares(&dir) {
            assert!(shares.len() <= saved::SHARES_MAX);
        }
        let _token = saved::waiting_token(&dir);
    }
    Ok(())
}

const SIZES: [u64; 3] = [700, 70_000, 300_000];

/// Opens a cache whose files were cut, changed or invented. It must return right bytes or none.
pub fn cache(choose: &mut Unstructured<'_>) -> Result<()> {
    let dir = scratch().join("cache");
    let _none = fs::remove_dir_all(&dir);
    let size_bytes = *choose.choose(&SIZES)?;
    let content: Vec<u8> = (0..size_bytes).map(|at| (at * at / 7) as u8).collect();
    let hash = ContentHash::of(&content);
    let stem = dir.join(&hash.to_string()[..2]).join(hash.to_string());
    if choose.arbitrary()? {
        fill(&dir, hash, &content);
    }
    let extensions = ["data", "outboard", "map", "map.new"];
    let above = ["pins", "version", "clean", "lock", "strange"];
    for _ in 0..choose.int_in_range(1..=3)? {
        let path = if choose.ratio(3u8, 4u8)? {
            stem.with_extension(choose.choose(&extensions)?)
        } else {
            dir.join(choose.choose(&above)?)
        };
        spoil(choose, &path)?;
    }
    let Ok((cache, _events)) = Cache::open(config(&dir)) else {
        return Ok(());
    };
    if let Ok(file) = cache.file(hash, size_bytes) {
        let mut buffer = vec![0; 4096];
        for offset in (0..size_bytes).step_by(4096) {
            let end = (offset + 4096).min(size_bytes);
            // Bytes from the page cache are not verified again. Bytes for other nodes are.
            let _read = file.read_at(offset, &mut buffer);
            let range = ByteRange::new(offset, end);
            if let Ok(proof) = file.encode(range, &PiecePool::default()) {
                let right = p2pfs_types::digest::decode(hash, size_bytes, range, proof);
                assert!(right.is_ok(), "a proof that proves nothing was given");
            }
        }
    }
    let _told = (cache.usage(), cache.problems());
    Ok(())
}

fn config(dir: &Path) -> CacheConfig {
    CacheConfig {
        dir: dir.to_owned(),
        budget_bytes: 1 << 20,
        floor_bytes: 0,
    }
}

/// Stores the content in a new cache and closes it.
fn fill(dir: &Path, hash: ContentHash, content: &[u8]) {
    let size_bytes = content.len() as u64;
    let outboard = Outboard::of(content);
    let (cache, _events) = Cache::open(config(dir)).expect("a cache of our own");
    let file = cache.file(hash, size_bytes).expect("there is room");
    let range = ByteRange::new(0, size_bytes);
    let proof = p2pfs_types::digest::encode(hash, size_bytes, range, content, &outboard.pairs[..]);
    let proof = proof.expect("it is right").into();
    let verified =
        p2pfs_types::digest::decode(hash, size_bytes, range, proof).expect("it is right");
    let _stored = file.store(&verified);
}

/// Changes, cuts or creates a file.
fn spoil(choose: &mut Unstructured<'_>, path: &Path) -> Result<()> {
    let mut bytes = fs::read(path).unwrap_or_default();
    match choose.int_in_range(0..=3u8)? {
        0 => bytes.truncate(choose.int_in_range(0..=bytes.len())?),
        1 if !bytes.is_empty() => {
            for _ in 0..choose.int_in_range(1..=8)? {
                let at = choose.int_in_range(0..=bytes.len() - 1)?;
                bytes[at] = choose.arbitrary()?;
            }
        }
        2 => bytes.extend_from_slice(choose.bytes(choose.len().min(100))?),
        _ => bytes = choose.bytes(choose.len().min(400))?.to_vec(),
    }
    write(path, &bytes);
    Ok(())
}
