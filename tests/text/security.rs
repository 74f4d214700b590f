//! Each line of SECURITY.md names a test that exists.

use std::fs;
use std::path::Path;

fn sources_of(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources_of(&path, all);
        } else if path.extension().is_some_and(|it| it == "rs") {
            all.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_line_of_the_security_page_names_an_existing_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for folder in ["src", "crates"] {
        sources_of(&root.join(folder), &mut sources);
    }
    sources_of(&root.join("tests"), &mut sources);
    let page = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| |"))
        .filter(|line| !line.starts_with("| path | opened by |"))
        .filter(|line| !line.starts_with("| table | limit"));
    let mut missing = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        // A path has three tests, a table has two, and any other line has one.
        let tests = if cells.len() > 2 {
            &cells[2..]
        } else {
            &cells[1..]
        };
        let is_missing = |cell: &&str| {
            let test = cell.trim_matches('`');
            test.len() < 10 || !sources.contains(&format!("fn {test}("))
        };
        if tests.is_empty() || tests.iter().any(is_missing) {
            missing.push(row);
        }
    }
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
    assert!(page.lines().filter(|line| line.starts_with("| ")).count() > 20);
}
