//! The limits of a type, and the file of its methods. An item begins and ends at the left margin.
//! Types that a macro declares are not counted, since their fields are those of a document: a
//! section of the configuration, or a reply in JSON.

use std::collections::{BTreeMap, BTreeSet};

use crate::architecture::words;
use crate::tidy::{assert_none, is_test_file, product_code};
use crate::tree::{Source, sources};

/// Maximum number of methods of a type, in all of its inherent `impl` blocks.
const METHODS_MAX: usize = 30;
/// Maximum number of fields of a struct.
const FIELDS_MAX: usize = 12;

/// Words that may stand before the keyword or the name of an item.
const QUALIFIERS: [&str; 8] = [
    "pub", "crate", "super", "in", "self", "const", "async", "unsafe",
];

/// An item: the lines up to its brace or semicolon, joined, and those of its members.
struct Item<'a> {
    head: String,
    members: Vec<&'a str>,
}

/// Returns the items of product code, except those of tests alone.
fn items(code: &str) -> Vec<Item<'_>> {
    let is_begin = |line: &str| line.starts_with(|c: char| c.is_alphabetic());
    let (mut found, mut is_of_tests) = (Vec::new(), false);
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        if !is_begin(line) {
            is_of_tests = line == "#[cfg(test)]" || (is_of_tests && line.starts_with('#'));
            continue;
        }
        let mut head = line.to_owned();
        while !head.ends_with(['{', '}', ';']) {
            let Some(next) = lines.next() else { break };
            head = format!("{head} {}", next.trim());
        }
        let has_body = head.ends_with('{');
        let members = lines.by_ref().take_while(|line| !line.starts_with('}'));
        let members = if has_body {
            members.collect()
        } else {
            Vec::new()
        };
        if !is_of_tests {
            found.push(Item { head, members });
        }
        is_of_tests = false;
    }
    found
}

fn unqualified(line: &str) -> Option<&str> {
    words(line).find(|word| !QUALIFIERS.contains(word))
}

impl Item<'_> {
    fn is(&self, keyword: &str) -> bool {
        unqualified(&self.head) == Some(keyword)
    }

    /// Returns the name behind the keyword.
    fn declared(&self) -> Option<&str> {
        words(&self.head)
            .filter(|word| !QUALIFIERS.contains(word))
            .nth(1)
    }

    /// Returns the type of an inherent `impl`.
    fn implemented(&self) -> Option<&str> {
        let is_inherent = self.is("impl") && !self.head.contains(" for ");
        let (_, mut rest) = self.head.split_once("impl").filter(|_| is_inherent)?;
        if rest.starts_with('<') {
            rest = &rest[end_of_generics(rest)..];
        }
        let path = rest.trim_start().split(['<', ' ']).next()?;
        path.rsplit("::").next()
    }

    /// Returns the number of members that `is_counted` accepts, except those of tests alone.
    fn count(&self, is_counted: impl Fn(&str) -> bool) -> usize {
        let (mut count, mut is_of_tests) = (0, false);
        let members = self.members.iter();
        for line in members.filter_map(|line| line.strip_prefix("    ")) {
            if line.starts_with(|c: char| c.is_alphabetic()) {
                count += usize::from(!is_of_tests && is_counted(line));
                is_of_tests = false;
            } else {
                is_of_tests |= line == "#[cfg(test)]";
            }
        }
        count
    }

    fn methods(&self) -> usize {
        self.count(|line| unqualified(line) == Some("fn"))
    }

    fn fields(&self) -> usize {
        self.count(|line| line.contains(": "))
    }
}

/// Returns the end of the generic parameters that a text begins with.
fn end_of_generics(text: &str) -> usize {
    let (mut depth, mut before) = (0, ' ');
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
        before = c;
    }
    text.len()
}

/// The inherent methods of a type, and the files that they stand in.
#[derive(Default)]
struct Methods {
    count: usize,
    files: BTreeSet<String>,
}

/// The types of one crate.
#[derive(Default)]
struct CrateTypes {
    /// The files that declare a type of each name.
    declared: BTreeMap<String, BTreeSet<String>>,
    /// The inherent `impl` blocks: name, file, number of methods.
    blocks: Vec<(String, String, usize)>,
    /// Structs with too many fields, as text.
    large: Vec<String>,
}

impl CrateTypes {
    fn add(&mut self, source: &Source) {
        for item in items(product_code(&source.text)) {
            if let Some(name) = item.implemented() {
                let block = (name.to_owned(), source.name.clone(), item.methods());
                self.blocks.push(block);
            }
            if !item.is("struct") && !item.is("enum") {
                continue;
            }
            let name = item.declared().unwrap_or_default();
            let files = self.declared.entry(name.to_owned()).or_default();
            files.insert(source.name.clone());
            let fields = item.fields();
            if item.is("struct") && fields > FIELDS_MAX {
                let large = format!("{}: {name} has {fields} fields", source.name);
                self.large.push(large);
            }
        }
    }

    /// Returns the methods by type. A file that declares a type has methods of that type alone, even
    /// if another file declares one of the same name.
    fn methods(&self) -> BTreeMap<(&str, Option<&str>), Methods> {
        let mut all = BTreeMap::<_, Methods>::new();
        for (name, file, count) in &self.blocks {
            let homes = self.declared.get(name);
            let own = homes.and_then(|homes| homes.get(file).or(homes.first()));
            let methods = all.entry((&**name, own.map(|own| &**own))).or_default();
            methods.count += count;
            methods.files.insert(file.clone());
        }
        all
    }
}

/// Returns the crate of a source below `crates` or `src`.
fn crate_of(source: &Source) -> String {
    let mut parts = source.name.split('/');
    match (parts.next(), parts.next()) {
        (Some("crates"), Some(name)) => name.to_owned(),
        _ => "p2pfs".to_owned(),
    }
}

#[test]
fn a_type_has_few_methods_and_fields_and_its_impl_in_one_file() {
    let mut crates = BTreeMap::<String, CrateTypes>::new();
    let all = ["crates", "src"].into_iter().flat_map(sources);
    for source in all.filter(|s| s.name.contains("src/") && !is_test_file(&s.name)) {
        crates.entry(crate_of(&source)).or_default().add(&source);
    }
    let types: usize = crates.values().map(|it| it.methods().len()).sum();
    assert!(types > 500, "{types} types with methods");
    let mut broken = Vec::new();
    for (of, types) in &crates {
        broken.extend(types.large.iter().cloned());
        for ((name, _), Methods { count, files }) in types.methods() {
            if count > METHODS_MAX || files.len() > 1 {
                let files: Vec<&str> = files.iter().map(|it| &**it).collect();
                broken.push(format!(
                    "{of}: {name}: {count} methods in {}",
                    files.join(", ")
                ));
            }
        }
    }
    assert_none(
        broken,
        "a type of more than 30 methods or 12 fields, or with its impl in several files",
    );
}
