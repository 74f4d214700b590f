//! Each statement of p2pfs(7) names its tests, and those tests exist.
//!
//! In the source of the page a line `.\" test: tests/tools.rs df_shows_what_the_cluster_shares`
//! follows the statement that the test checks. A paragraph, an entry of a list and a row of a table
//! each end with at least one.

use std::fs;
use std::path::Path;
use std::process::Command;

const MARK: &str = ".\\\" test: ";
/// Sections without statements of their own.
const STATELESS: [&str; 3] = ["NAME", "EXAMPLES", "SEE ALSO"];
/// Requests that begin a new statement.
const BREAKS: [&str; 6] = [".SH", ".SS", ".PP", ".TP", ".TS", ".TE"];

/// A statement of the page, and the lines that name its tests.
#[derive(Default)]
struct Statement<'a> {
    text: Vec<&'a str>,
    tests: Vec<&'a str>,
    /// Whether text came after the last test.
    is_open: bool,
}

/// Returns the statements of a page, each with its section.
fn statements(page: &str) -> Vec<(&str, Statement<'_>)> {
    let mut found = vec![];
    let (mut section, mut now) = ("", Statement::default());
    // A table begins with its format, up to a full stop.
    let (mut in_table, mut in_format) = (false, false);
    for line in page.lines() {
        if let Some(test) = line.strip_prefix(MARK) {
            now.tests.push(test);
            now.is_open = false;
            continue;
        }
        let begins = BREAKS.iter().any(|it| line.starts_with(it));
        if begins || (in_table && line.contains('\t')) {
            found.push((section, std::mem::take(&mut now)));
        }
        if let Some(name) = line.strip_prefix(".SH ") {
            section = name;
        }
        if begins {
            (in_table, in_format) = (line == ".TS", line == ".TS");
        } else if in_format {
            in_format = !line.ends_with('.');
        } else if !line.starts_with(".\\\"") && !line.starts_with("'\\\"") {
            now.text.push(line);
            now.is_open = true;
        }
    }
    found.push((section, now));
    found.retain(|it| !it.0.is_empty() && !it.1.text.is_empty());
    found
}

fn page() -> String {
    fs::read_to_string(in_tree("man/p2pfs.7")).unwrap()
}

fn in_tree(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

#[test]
fn each_statement_about_the_folder_names_a_test() {
    let page = page();
    let statements = statements(&page);
    assert!(statements.len() > 40, "{}", statements.len());
    let untested: Vec<String> = (statements.iter())
        .filter(|(section, it)| it.is_open && !STATELESS.contains(section))
        .map(|(section, it)| format!("{section}: … {}", it.text.last().unwrap()))
        .collect();
    let untested = untested.join("\n  ");
    assert!(
        untested.is_empty(),
        "no `{MARK}FILE NAME` behind:\n  {untested}"
    );
}

#[test]
fn each_test_named_in_the_page_exists() {
    let page = page();
    let mut missing = vec![];
    for (_, statement) in statements(&page) {
        for test in statement.tests {
            let (file, name) = test.split_once(' ').unwrap_or((test, ""));
            let source = fs::read_to_string(in_tree(file)).unwrap_or_default();
            let forms = [format!("fn {name}("), format!("\"{name}\"")];
            if name.is_empty() || !forms.iter().any(|form| source.contains(form)) {
                missing.push(test);
            }
        }
    }
    assert!(
        missing.is_empty(),
        "no such test:\n  {}",
        missing.join("\n  ")
    );
}

#[test]
fn a_statement_without_a_test_is_detected() {
    let page = ".SH A\nTested.\n.\\\" test: a b\n.PP\nTested.\n.\\\" test: a b\nAnd more.\n\
                .TS\nl lx.\none\tT{\nrow\nT}\n.\\\" test: a c\nother\trow\n.TE\n.SH B\n";
    let found = statements(page);
    let open: Vec<&str> = (found.iter().filter(|it| it.1.is_open))
        .map(|it| *it.1.text.last().unwrap())
        .collect();
    assert_eq!(open, ["And more.", "other\trow"]);
}

#[test]
fn mandoc_accepts_every_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("man")).unwrap();
    let mut lint = Command::new("mandoc");
    lint.args(["-T", "lint", "-W", "warning"]);
    lint.args(pages.map(|page| page.unwrap().path()));
    match lint.output() {
        Err(error) => eprintln!("SKIPPED, mandoc is not installed: {error}"),
        Ok(said) => {
            let said = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(said.is_empty(), "{said}");
        }
    }
}

#[test]
fn a_line_of_the_manual_is_within_mandocs_limit() {
    const TEXT_MAX_BYTES: usize = 80;
    let mut long = Vec::new();
    for page in fs::read_dir(in_tree("man")).unwrap() {
        let page = page.unwrap().path();
        let text = fs::read_to_string(&page).unwrap();
        for (number, line) in text.lines().enumerate() {
            let is_text = !line.starts_with(['.', '\'']) && !line.contains('\t');
            if is_text && line.len() > TEXT_MAX_BYTES {
                long.push(format!("{}:{}", page.display(), number + 1));
            }
        }
    }
    assert!(long.is_empty(), "over {TEXT_MAX_BYTES} bytes: {long:?}");
}
