//! Names and bytes of files, and comparisons of them.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Returns incompressible bytes that depend only on the seed.
pub(crate) fn noise(seed: u64, length_bytes: usize) -> Vec<u8> {
    let mut bytes = vec![0; length_bytes];
    endless_noise(seed).fill(&mut bytes);
    bytes
}

/// Writes a file of such bytes with little memory, however large it is. The memory of a test is
/// copied for each program that it starts.
pub(crate) fn write_noise(path: &Path, seed: u64, length_bytes: u64) {
    let mut file = fs::File::create(path).unwrap();
    io::copy(&mut endless_noise(seed).take(length_bytes), &mut file).unwrap();
}

fn endless_noise(seed: u64) -> blake3::OutputReader {
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
}

/// Returns the hash of a file, which is read in pieces.
pub(crate) fn hash_of(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Returns all paths below a directory, relative to it and sorted.
pub(crate) fn names_below(dir: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        // A directory that was removed after its listing has no names.
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let entry = entry.unwrap();
            names.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    names.sort();
    names
}
