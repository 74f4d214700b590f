//! Keeps the first page of the documentation true: what its tables name is in the tree, and its
//! table of modules, its drawing and its list of what is pure are as the tree is held to be.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::tidy::{IMPORTS, PURE, sources};

/// What the drawing leaves out: the modules at the top of the table.
const SMALL: [&str; 10] = [
    "id", "path", "extent", "digest", "bucket", "least", "files", "offences", "trust", "wire",
];

fn first_page() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    fs::read_to_string(page).unwrap()
}

/// What of a text is between these two.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).expect(start);
    rest.split_once(end).expect(end).0
}

/// What stands in a text in backticks.
fn in_backticks(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of modules in a drawing; of a path the first.
fn drawn(drawing: &str) -> impl Iterator<Item = &str> {
    let is_of_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = drawing.split(move |c: char| !is_of_name(c));
    words.filter_map(|word| word.split(':').next().filter(|it| !it.is_empty()))
}

/// The words up to the first that no comma follows.
fn a_list<'a>(words: &'a [&'a str]) -> &'a [&'a str] {
    let end = words.iter().position(|word| !word.ends_with(','));
    &words[..=end.unwrap()]
}

/// The modules that a row of the table of imports allows, but for the small ones; of a path the
/// first.
fn imports_of(module: &str) -> BTreeSet<&str> {
    let row = IMPORTS.iter().find(|(name, _)| *name == module);
    let allowed = row.expect(module).1.iter();
    let allowed = allowed.map(|path| path.split("::").next().unwrap());
    allowed.filter(|it| !SMALL.contains(it)).collect()
}

/// The modules that a file declares, its tests aside.
fn declared(text: &str) -> BTreeSet<&str> {
    let modules = text.lines().zip(text.lines().skip(1));
    let of_tests = |line: &str| line.starts_with("#[cfg(test)]") || line.starts_with("#[path");
    let modules = modules.filter(|(before, _)| !of_tests(before));
    let modules = modules.filter_map(|(_, line)| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    modules.collect()
}

#[test]
fn the_table_of_modules_has_a_row_for_each_and_for_no_other() {
    let page = first_page();
    let table = between(&page, "| module | what is in it |", "//!\n");
    let first_cells = table.lines().filter_map(|row| row.split('|').nth(1));
    let listed: Vec<_> = first_cells.flat_map(in_backticks).collect();
    assert_eq!(
        listed.iter().copied().collect::<BTreeSet<_>>(),
        declared(&page)
    );
    assert_eq!(listed.len(), declared(&page).len(), "one is there twice");
    let top: BTreeSet<_> = listed[..SMALL.len()].iter().copied().collect();
    assert_eq!(
        top,
        BTreeSet::from(SMALL),
        "the drawing leaves those at the top out"
    );
}

#[test]
fn what_the_first_page_calls_pure_is_what_is_held_to_it() {
    let page = first_page();
    let said = between(&page, "//! Pure are ", "(`tests/text/tidy.rs`");
    assert_eq!(in_backticks(said).collect::<Vec<_>>(), PURE);
}

#[test]
fn the_drawing_has_the_imports_of_the_table() {
    let page = first_page();
    let drawing = between(&page, "```text\n", "//! ```\n");
    for line in drawing.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        for (at, arrow) in words.iter().enumerate() {
            let (knower, known) = match *arrow {
                "◀─" => (words[at + 1], &words[at - 1..at]),
                it if it.ends_with("─▶") => (words[at - 1], a_list(&words[at + 1..])),
                _ => continue,
            };
            for known in known.iter().map(|it| it.trim_end_matches(',')) {
                let allowed = knower == "main" || imports_of(knower).contains(known);
                assert!(allowed, "{knower} knows no {known}: {line}");
            }
        }
    }
    let (_, below) = drawing.split_once("node ◀").unwrap();
    let pure = between(below, "pure: ", "▼");
    let plain = between(below, "▼\n", "net: ");
    let found = drawn(pure)
        .chain(drawn(plain))
        .filter(|it| declared(&page).contains(it));
    assert_eq!(
        found.collect::<BTreeSet<_>>(),
        imports_of("node"),
        "below `node`"
    );
    let beside = BTreeSet::from(["fuse", "node"]);
    assert_eq!(imports_of("daemon"), beside, "`daemon` stands above both");
    let below_fuse = BTreeSet::from(["fs", "mounting"]);
    assert_eq!(
        imports_of("fuse"),
        below_fuse,
        "`fuse` stands above `fs`, beside `mounting`"
    );
}

#[test]
fn the_tables_of_large_modules_name_each_of_their_files_once() {
    for file in [
        "src/transfer/plan/mod.rs",
        "src/node/mod.rs",
        "src/catalogue/mod.rs",
    ] {
        let text = &sources(file)[0].text;
        let table = between(text, "//! | what | files |\n", "\n\n");
        let mut listed: Vec<_> = in_backticks(table).collect();
        listed.sort_unstable();
        assert_eq!(listed, Vec::from_iter(declared(text)), "{file}");
    }
}

#[test]
fn what_the_first_page_says_holds_an_invariant_or_is_to_be_changed_is_there() {
    let page = first_page();
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
