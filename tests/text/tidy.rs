//! Keeps the tree itself tidy: who imports whom, how long files, functions and lines are, and
//! which words are used. Each rule prints every place that breaks it.

use std::fs;
use std::path::{Path, PathBuf};

/// Which modules each top-level module may import, by the longest matching prefix of its module
/// path. `src/lib.rs` has the picture; a module may always import itself.
pub const IMPORTS: &[(&str, &[&str])] = &[
    ("id", &[]),
    ("bucket", &[]),
    ("least", &[]),
    ("files", &[]),
    ("offences", &["bucket"]),
    ("path", &[]),
    ("extent", &[]),
    ("digest", &["extent", "id"]),
    ("trust", &["id", "files"]),
    ("wire", &["id", "path", "extent", "digest"]),
    ("cluster", &["id", "bucket", "trust", "wire"]),
    ("catalogue", &["id", "path", "digest", "trust", "wire"]),
    ("legacy", &["id", "path", "bucket", "offences", "wire"]),
    ("mesh", &["id", "path", "bucket", "offences", "wire"]),
    ("cache", &["id", "files", "extent", "digest"]),
    (
        "share",
        &["id", "files", "path", "extent", "digest", "wire"],
    ),
    ("net", &["id", "bucket", "least", "files", "trust", "wire"]),
    ("transfer::plan", &["id", "least", "extent", "digest"]),
    (
        "transfer::session",
        &[
            "id",
            "extent",
            "digest",
            "wire",
            "transfer::plan",
            "transfer::TransferError",
        ],
    ),
    (
        "transfer",
        &["id", "extent", "digest", "wire", "net", "cache", "share"],
    ),
    (
        "fs",
        &["id", "path", "extent", "digest", "wire", "catalogue"],
    ),
    ("mounting", &["files::mountinfo"]),
    ("broker", &["files::socket_place", "mounting"]),
    ("fuse::mounter", &["fuse", "mounting", "broker"]),
    ("fuse", &["fs", "id", "extent", "mounting"]),
    (
        "node",
        &[
            "id",
            "path",
            "extent",
            "digest",
            "files",
            "bucket",
            "offences",
            "trust",
            "wire",
            "cluster",
            "catalogue",
            "legacy",
            "mesh",
            "cache",
            "share",
            "net",
            "transfer",
            "fs",
        ],
    ),
    (
        "daemon",
        &["id", "files", "path", "digest", "trust", "node", "fuse"],
    ),
    // where the door's types become those of the control socket
    (
        "daemon::answers",
        &["id", "path", "digest", "trust", "node", "daemon"],
    ),
    (
        "cli",
        &[
            "id",
            "files",
            "path",
            "daemon::control",
            "daemon::config",
            "trust",
        ],
    ),
];

/// What names no runtime, socket, file or clock; `src/lib.rs` has the same list.
pub const PURE: [&str; 14] = [
    "id",
    "bucket",
    "least",
    "offences",
    "path",
    "extent",
    "digest",
    "wire",
    "cluster",
    "catalogue",
    "legacy",
    "mesh",
    "transfer::plan",
    "transfer::session",
];

const LINE_MAX_COLUMNS: usize = 100;
const FILE_MAX_LINES: usize = 500;
const FUNCTION_MAX_LINES: usize = 70;

/// Names that say nothing about what is inside.
const NAMELESS: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "manager",
];
/// Verbs that hide what is done, where a function is named for what it does.
const VAGUE_VERBS: &[&str] = &["fn process_", "fn do_", "fn manage_"];
/// The bound of a number is said at the end of its name, as in `NAMES_MAX` and `BODY_MAX_BYTES`.
const BOUNDS_FIRST: &[&str] = &["const MAX_", "const MIN_"];
/// Comments that say no more than the name that they stand above.
const EMPTY_COMMENTS: &[&str] = &[
    "Which.",
    "Who.",
    "Where.",
    "Why.",
    "What.",
    "How.",
    "Whose.",
    "Its name.",
    "Its size.",
    "See the module.",
];
/// What must not stay in a tree that is meant to be used.
const UNFINISHED: &[&str] = &[
    "todo!(",
    "unimplemented!(",
    "TODO",
    "FIXME",
    "XXX",
    "HACK",
    "dbg!(",
];

pub struct Source {
    pub name: String,
    pub text: String,
}

/// The sources in a folder, or that one file.
pub fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    match folder.ends_with(".rs") {
        true => found.push(root.join(folder)),
        false => collect(&root.join(folder), &mut found),
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

fn assert_none(broken: Vec<String>, rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// The module path of a file: `src/net/peer/mod.rs` is `net::peer`.
pub fn module_path(name: &str) -> String {
    let inner = name.trim_start_matches("src/").trim_end_matches(".rs");
    inner.trim_end_matches("/mod").replace('/', "::")
}

/// The part of a file before the tests that are in it.
pub fn product_code(text: &str) -> &str {
    let mark = "#[cfg(test)]\n";
    let are_here = |at: &usize| {
        let next = text[at + mark.len()..].lines().next().unwrap_or_default();
        next.contains("mod ") && next.ends_with('{')
    };
    let mut marks = text.match_indices(mark).map(|(at, _)| at);
    &text[..marks.find(are_here).unwrap_or(text.len())]
}

fn is_test_file(name: &str) -> bool {
    name.contains("/tests") || name.ends_with("_tests.rs") || name.contains("simulation")
}

/// Every `crate::a::b` of a text, braces one level deep included, as `a::b`.
fn imported_paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or_default();
            paths.extend(
                group
                    .split(',')
                    .map(|p| p.trim().to_owned())
                    .filter(|p| !p.is_empty()),
            );
        } else {
            let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            paths.push(rest.chars().take_while(|c| word(*c)).collect());
        }
    }
    paths
}

fn is_within(path: &str, prefix: &str) -> bool {
    path == prefix
        || path
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with("::"))
}

#[test]
fn every_module_imports_only_what_its_row_of_the_table_names() {
    let mut broken = Vec::new();
    for source in sources("src") {
        let module = module_path(&source.name);
        if module == "lib" || module == "main" || is_test_file(&source.name) {
            continue;
        }
        let row = IMPORTS
            .iter()
            .filter(|(prefix, _)| is_within(&module, prefix))
            .max_by_key(|(prefix, _)| prefix.len());
        let Some((prefix, allowed)) = row else {
            broken.push(format!("{}: no row in the table", source.name));
            continue;
        };
        for path in imported_paths(product_code(&source.text)) {
            let own = is_within(&path, prefix) || path.is_empty();
            if !own && !allowed.iter().any(|other| is_within(&path, other)) {
                broken.push(format!("{}: imports {path}", source.name));
            }
        }
    }
    assert_none(broken, "imports outside the table");
}

#[test]
fn only_the_module_fuse_names_fuser() {
    let broken = sources("src")
        .iter()
        .filter(|s| !s.name.starts_with("src/fuse/"))
        .filter(|s| s.text.contains("fuser::"))
        .map(|s| s.name.clone())
        .collect();
    assert_none(broken, "fuser is named outside its module");
}

#[test]
fn pure_modules_name_no_runtime_socket_file_or_clock() {
    let impure = [
        "tokio::",
        "std::fs",
        "UdpSocket",
        "TcpStream",
        "Instant::now",
        "SystemTime::now",
    ];
    let mut broken = Vec::new();
    for source in sources("src") {
        let module = module_path(&source.name);
        if is_test_file(&source.name) || !PURE.iter().any(|it| is_within(&module, it)) {
            continue;
        }
        let code = product_code(&source.text);
        let without_docs = code.lines().filter(|l| !l.trim_start().starts_with("//"));
        for line in without_docs {
            if impure.iter().any(|word| line.contains(word)) {
                broken.push(format!("{}: {}", source.name, line.trim()));
            }
        }
    }
    assert_none(broken, "a pure module is not pure");
}

#[test]
fn lines_files_and_functions_fit_a_screen() {
    let mut broken = Vec::new();
    let folders = ["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets"];
    for source in folders.into_iter().flat_map(sources) {
        for (number, line) in source.text.lines().enumerate() {
            // a table of the documentation cannot be broken
            let is_table = line.trim_start().starts_with("//! |");
            if !is_table && line.chars().count() > LINE_MAX_COLUMNS {
                broken.push(format!(
                    "{}:{}: over {LINE_MAX_COLUMNS} columns",
                    source.name,
                    number + 1
                ));
            }
        }
        let lines = product_code(&source.text).lines().count();
        if lines > FILE_MAX_LINES {
            broken.push(format!(
                "{}: {lines} lines, over {FILE_MAX_LINES}",
                source.name
            ));
        }
        if source.name.starts_with("src/") {
            broken.extend(long_functions(&source));
        }
    }
    assert_none(broken, "too long");
}

fn long_functions(source: &Source) -> Vec<String> {
    let mut long = Vec::new();
    let mut open: Option<(usize, usize, &str)> = None;
    for (number, line) in source.text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim_start();
        let head = text.split('(').next().unwrap_or_default();
        if open.is_none()
            && (head.starts_with("fn ") || head.contains(" fn "))
            && !text.starts_with("//")
        {
            open = Some((number, indent, text));
        }
        let ends = |depth| indent == depth && (text.starts_with('}') || text.ends_with(';'));
        if let Some((start, depth, name)) = open
            && ends(depth)
        {
            let lines = number - start + 1;
            if lines > FUNCTION_MAX_LINES {
                long.push(format!(
                    "{}:{}: {lines} lines: {name}",
                    source.name,
                    start + 1
                ));
            }
            open = None;
        }
    }
    long
}

/// Lines that the compiler reads, before the tests.
fn code_lines(folder: &str) -> usize {
    let sources = sources(folder);
    let product = sources.iter().filter(|s| !is_test_file(&s.name));
    let lines = product.flat_map(|s| product_code(&s.text).lines());
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    lines.filter(is_code).count()
}

#[test]
fn what_runs_with_the_right_to_mount_can_be_read_in_a_sitting() {
    let list = code_lines("src/broker/filter.rs") + code_lines("src/broker/protocol.rs");
    let broker = code_lines("src/broker");
    let calls = code_lines("src/mounting") + code_lines("src/files/mountinfo.rs");
    assert!(list > 100 && calls > 100, "counted: {list}, {calls}");
    let decides = broker - list;
    assert!(decides < 300, "{decides} lines decide");
    assert!(broker < 500, "{broker} lines are the broker's own");
    assert!(broker + calls < 1000, "{broker} and {calls} lines");
}

#[test]
fn names_say_what_is_inside() {
    let mut broken = Vec::new();
    for source in ["src", "tests"].into_iter().flat_map(sources) {
        let stem = Path::new(&source.name)
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        if NAMELESS.contains(&stem.as_str()) {
            broken.push(format!("{}: a file of that name", source.name));
        }
        if source.name == "tests/text/tidy.rs" {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            let vague = VAGUE_VERBS.iter().find(|verb| line.contains(*verb));
            let unfinished = UNFINISHED.iter().find(|mark| line.contains(*mark));
            let comment = line.trim_start().strip_prefix("/// ").unwrap_or_default();
            let empty = EMPTY_COMMENTS.iter().find(|words| **words == comment);
            let is_number = !line.contains(": &");
            let bound = BOUNDS_FIRST
                .iter()
                .find(|words| line.contains(*words) && is_number);
            if let Some(word) = vague.or(unfinished).or(empty).or(bound) {
                broken.push(format!("{}:{}: {word}", source.name, number + 1));
            }
        }
    }
    assert_none(broken, "words that the tree does not use");
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    let broken = ["src", "tests", "benches", "fuzz/src", "fuzz/fuzz_targets"]
        .into_iter()
        .flat_map(sources)
        .filter(|s| !s.text.starts_with("//!"))
        .map(|s| s.name)
        .collect();
    assert_none(broken, "no module documentation");
}

#[test]
fn tests_that_need_something_of_the_machine_say_so() {
    let attribute = concat!("#[", "test]");
    let broken = ["tests/mount", "tests/daemons", "tests/system"]
        .into_iter()
        .flat_map(sources)
        .filter(|s| s.text.contains(attribute))
        .map(|s| {
            format!(
                "{}: {attribute} is never run here; #[apply(promise)] is",
                s.name
            )
        })
        .collect();
    assert_none(broken, "a test that no binary runs");
}

/// Where a test may let time pass, and why.
const PAUSES: &[(&str, &str)] = &[
    (
        "tests/support/process.rs",
        "asks again, until a limit fails it",
    ),
    (
        "tests/support/legacy_peer.rs",
        "the pauses that the protocol has",
    ),
];

#[test]
fn no_test_sleeps_for_luck() {
    let sleeps = ["thread::sleep(", "time::sleep(", "park_timeout("];
    let broken = sources("tests")
        .iter()
        .filter(|s| s.name != "tests/text/tidy.rs")
        .filter(|s| !PAUSES.iter().any(|(file, _)| *file == s.name))
        .flat_map(|s| s.text.lines().map(move |line| (s, line)))
        .filter(|(_, line)| sleeps.iter().any(|sleep| line.contains(sleep)))
        .map(|(s, line)| format!("{}: {}", s.name, line.trim()))
        .collect();
    assert_none(broken, "a test that sleeps");
}
