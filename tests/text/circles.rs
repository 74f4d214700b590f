//! No two files of the product know each other, but a parent and its child: what a newcomer reads
//! first can be understood without what is built on it.

use std::collections::{BTreeMap, BTreeSet};

use super::tidy::{Source, module_path, product_code, sources};

/// What a file imports: paths from the crate's root, as far as they are written out.
fn imports(module: &str, text: &str) -> Vec<String> {
    let parent = module.rsplit_once("::").map_or("", |it| it.0);
    let above = parent.rsplit_once("::").map_or("", |it| it.0);
    let starts = [
        ("crate::", ""),
        ("super::super::", above),
        ("super::", parent),
    ];
    let mut found = Vec::new();
    for (word, base) in starts {
        for (at, _) in text.match_indices(word) {
            let before = &text[..at];
            let whole = |c: char| c.is_alphanumeric() || "_$:".contains(c);
            if before.ends_with(whole) {
                continue;
            }
            for path in written_out(&text[at + word.len()..]) {
                let path = format!("{base}::{path}");
                found.push(path.trim_start_matches("::").to_owned());
            }
        }
    }
    found
}

/// `a::b` of `a::b;`, and `a::b` and `a::c::d` of `a::{b, c::d}`.
fn written_out(rest: &str) -> Vec<String> {
    let plain = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
    let (head, tail) = rest.split_at(rest.find(plain).unwrap_or(rest.len()));
    let Some(group) = tail
        .strip_prefix('{')
        .filter(|_| head.is_empty() || head.ends_with("::"))
    else {
        return vec![head.to_owned()];
    };
    let (mut depth, mut items, mut item) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    items.push(item);
    let items = items.iter().map(|item| item.trim());
    let items = items.filter(|item| !item.is_empty());
    items
        .flat_map(written_out)
        .map(|item| format!("{head}{item}"))
        .collect()
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Which file takes names from which; parents and their children left out.
fn graph(sources: &[Source]) -> Graph {
    let modules: BTreeSet<String> = sources.iter().map(|it| module_path(&it.name)).collect();
    let within =
        |inner: &str, outer: &str| inner == outer || inner.starts_with(&format!("{outer}::"));
    let mut graph = Graph::new();
    for source in sources {
        let module = module_path(&source.name);
        let mut known = BTreeSet::new();
        for path in imports(&module, product_code(&source.text)) {
            let owners = modules.iter().filter(|it| within(&path, it));
            let Some(owner) = owners.max_by_key(|it| it.len()) else {
                continue;
            };
            if !within(&module, owner) && !within(owner, &module) {
                known.insert(owner.clone());
            }
        }
        graph.insert(module, known);
    }
    graph
}

fn reached<'a>(graph: &'a Graph, from: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(at) = left.pop() {
        for next in graph.get(at).into_iter().flatten() {
            if reached.insert(next.as_str()) {
                left.push(next);
            }
        }
    }
    reached
}

#[test]
fn no_two_files_know_each_other_but_parent_and_child() {
    let sources: Vec<Source> = (sources("src").into_iter())
        .filter(|it| !it.name.contains("/tests") && !it.name.contains("simulation"))
        .filter(|it| !["src/lib.rs", "src/main.rs"].contains(&it.name.as_str()))
        .collect();
    let graph = graph(&sources);
    let tangled: Vec<&str> = (graph.keys().map(String::as_str))
        .filter(|module| reached(&graph, module).contains(module))
        .collect();
    assert!(
        tangled.is_empty(),
        "circles of files:\n  {}",
        tangled.join("\n  ")
    );
}

#[test]
fn imports_are_read_as_they_are_written() {
    let text = "use super::{a, b::{C, d}};\nuse crate::e::F;\nfn f() { super::super::g::h(); }";
    let found = imports("x::y::z", text);
    let wanted = ["e::F", "x::g::h", "x::y::a", "x::y::b::C", "x::y::b::d"];
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert!(wanted.iter().all(|it| found.contains(it)), "{found:?}");
}
