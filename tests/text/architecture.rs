//! Compares the documents with the workspace: the table of crates in `docs/architecture.md` with
//! Cargo's dependency graph, and the names of methods in `docs` with the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::tidy::product_code;
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

/// Words that may stand before the keyword or the name of what a line declares.
const QUALIFIERS: [&str; 4] = ["pub", "const", "async", "unsafe"];

pub(crate) fn words(line: &str) -> impl Iterator<Item = &str> {
    let apart = |c: char| !c.is_alphanumeric() && c != '_';
    line.split(apart).filter(|word| !word.is_empty())
}

/// Returns the words of a declaration without its visibility and other qualifiers.
pub(crate) fn unqualified(line: &str) -> impl Iterator<Item = &str> {
    let visibility = line.trim_start().strip_prefix("pub(");
    let behind = visibility.and_then(|it| it.split_once(')'));
    let declaration = behind.map_or(line, |(_, declaration)| declaration);
    words(declaration).filter(|word| !QUALIFIERS.contains(word))
}

/// Adds each member that a source declares: of a type, its methods, constants, variants and fields;
/// of a trait, its methods. An item begins and ends at the left margin, and its members are
/// indented by four spaces.
fn collect_members(code: &str, members: &mut BTreeSet<(String, String)>) {
    let begins = |line: &str| {
        let kinds = ["impl", "trait", "enum", "struct"];
        let first = unqualified(line).next();
        !line.starts_with([' ', '/', '#']) && first.is_some_and(|word| kinds.contains(&word))
    };
    let mut of_types: Vec<&str> = Vec::new();
    let mut is_head = false;
    for line in code.lines() {
        if begins(line) {
            (is_head, of_types) = (true, Vec::new());
        }
        if is_head {
            of_types.extend(words(line));
            is_head = !line.ends_with(['{', '}', ';']);
            continue;
        }
        if !line.starts_with(' ') && !line.is_empty() {
            of_types.clear();
        }
        let declared = line.strip_prefix("    ");
        let declared = declared.filter(|line| !line.starts_with([' ', '/', '#']));
        let name = declared.and_then(|line| unqualified(line).find(|word| *word != "fn"));
        if let Some(name) = name {
            let of_name = |it: &&str| ((*it).to_owned(), name.to_owned());
            members.extend(of_types.iter().map(of_name));
        }
    }
}

/// Returns the type and the member if a text in backticks is a path to a member, such as
/// `plan::Plan::demand`.
fn as_member(quoted: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = quoted.split("::").collect();
    let [.., of_type, member] = parts.as_slice() else {
        return None;
    };
    let is_name = |part: &&str| words(part).eq([*part]);
    let is_type = of_type.starts_with(|c: char| c.is_uppercase());
    (is_type && parts.iter().all(is_name)).then(|| ((*of_type).to_owned(), (*member).to_owned()))
}

#[test]
fn each_member_that_the_documents_name_exists() {
    let mut members = BTreeSet::new();
    for source in ["crates", "src"].into_iter().flat_map(sources) {
        collect_members(product_code(&source.text), &mut members);
    }
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
            if !members.contains(&member) {
                broken.push(format!("{}: {quoted}", page.display()));
            }
        }
    }
    assert!(named > 30, "{named} members");
    assert!(broken.is_empty(), "no such member: {broken:#?}");
}
