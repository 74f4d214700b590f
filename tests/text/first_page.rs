//! Keeps the tables of the first page of the documentation true: what they name is in the tree.

use std::fs;
use std::path::Path;

use super::tidy::sources;

#[test]
fn what_the_first_page_says_holds_an_invariant_or_is_to_be_changed_is_there() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let page = page.unwrap();
    let tables = [
        "# What always holds",
        "# What was found out about the system",
        "# Where to change what",
    ];
    let mut missing = Vec::new();
    for table in tables {
        let (_, rows) = page.split_once(table).expect(table);
        let (rows, _) = rows.split_once("//! #").expect("another chapter");
        let rows = rows.lines().filter(|line| line.starts_with("//! |"));
        let named = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
        missing.extend(named.filter(|name| !is_there(name)));
    }
    assert!(missing.is_empty(), "not there: {missing:?}");
}

/// Whether a module, what a module has, or a path of the tree is there.
fn is_there(name: &str) -> bool {
    let name = name.split("::tests").next().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_path = |path: &str| root.join(path).exists() || root.join(format!("{path}.rs")).exists();
    let inside = format!("src/{}", name.replace("::", "/"));
    let (module, item) = inside.rsplit_once('/').unwrap();
    let has_item = || {
        let mut files = sources(module).into_iter().map(|file| file.text);
        let file = fs::read_to_string(root.join(format!("{module}.rs")));
        files.any(|text| text.contains(item)) || file.is_ok_and(|text| text.contains(item))
    };
    is_path(name) || is_path(&inside) || has_item()
}
