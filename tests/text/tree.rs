//! Access to the sources of the tree.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Source {
    pub name: String,
    pub text: String,
}

/// Returns the sources in a folder, or that one file.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    if folder.ends_with(".rs") {
        found.push(root.join(folder))
    } else {
        collect(&root.join(folder), &mut found)
    }
    found.sort();
    found
        .into_iter()
        .map(|path| Source {
            name: path.strip_prefix(root).unwrap().display().to_string(),
            text: fs::read_to_string(&path).unwrap(),
        })
        .collect()
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}
