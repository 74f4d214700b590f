//! Compares the documents with the workspace: the table of crates in `docs/architecture.md` with
//! Cargo's dependency graph, and the names of methods in `docs` with the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tree::sources;

/// Crates and their dependencies, named without the prefix `p2pfs-`. The program is `p2pfs`.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn short(name: &str) -> String {
    name.strip_prefix("p2pfs-").unwrap_or(name).to_owned()
}

/// Returns the dependencies between the crates of the workspace, without those of tests.
fn built() -> Graph {
    let ran = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let row = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().expect("dependencies");
        let of_product = all.iter().filter(|it| it["kind"].is_null());
        let names = of_product.map(|it| text(&it["name"]));
        let ours = names.filter(|name| name.starts_with("p2pfs-"));
        (
            short(&text(&package["name"])),
            ours.map(|name| short(&name)).collect(),
        )
    };
    packages.iter().map(row).collect()
}

/// Returns the rows of the table. The first cell names a crate, the last one its dependencies.
fn documented() -> Graph {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(page).expect("docs/architecture.md");
    let (_, rows) = page.split_once("| crate | ").expect("a table of crates");
    let rows = rows
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("| "));
    let named = |cell: &str| cell.split('`').skip(1).step_by(2).map(short).collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let of_cell: Vec<String> = named(cells[0]);
        let known: Vec<String> = named(cells[cells.len() - 1]);
        (of_cell[0].clone(), known.into_iter().collect())
    };
    rows.map(row).collect()
}

#[test]
fn documented_crate_graph_matches_cargo_metadata() {
    assert_eq!(documented(), built());
}

#[test]
fn only_the_program_depends_on_the_older_protocols() {
    let dependents = built().into_iter();
    let dependents = dependents.filter(|(_, used)| used.contains("legacy"));
    let names: Vec<String> = dependents.map(|(name, _)| name).collect();
    assert_eq!(names, ["p2pfs"]);
}

/// Returns the type and the member if a text in backticks is a path to a member, such as
/// `plan::Plan::demand`.
fn as_member(quoted: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = quoted.split("::").collect();
    let [.., of_type, member] = parts.as_slice() else {
        return None;
    };
    let is_name =
        |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_');
    let is_type = of_type.starts_with(|c: char| c.is_uppercase());
    (is_type && parts.iter().all(is_name)).then(|| ((*of_type).to_owned(), (*member).to_owned()))
}

#[test]
fn each_member_that_the_documents_name_exists() {
    // A word of the file that declares the type, or of one that implements more of it.
    let all: Vec<String> = ["crates", "src"]
        .into_iter()
        .flat_map(sources)
        .map(|source| source.text)
        .collect();
    let is_word = |text: &str, word: &str| {
        let apart = |c: char| !c.is_alphanumeric() && c != '_';
        text.split(apart).any(|it| it == word)
    };
    let exists = |(of_type, member): &(String, String)| {
        all.iter()
            .filter(|text| text.contains(of_type.as_str()) && text.contains(member.as_str()))
            .any(|text| is_word(text, of_type) && is_word(text, member))
    };
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let pages = fs::read_dir(pages).unwrap().map(|it| it.unwrap().path());
    let pages = pages.filter(|it| it.extension().is_some_and(|it| it == "md"));
    let (mut named, mut broken) = (0, Vec::new());
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let Some(member) = as_member(quoted) else {
                continue;
            };
            named += 1;
            if !exists(&member) {
                broken.push(format!("{}: {quoted}", page.display()));
            }
        }
    }
    assert!(named > 30, "{named} members");
    assert!(broken.is_empty(), "no such member: {broken:#?}");
}
