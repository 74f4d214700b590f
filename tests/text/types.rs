//! The limits of a type, and the file of its methods. An item begins and ends at the left margin.
//! The fields of types that a macro declares are not counted, since they are those of a document: a
//! section of the configuration, or a reply in JSON.

use std::collections::{BTreeMap, BTreeSet};

use crate::architecture::unqualified;
use crate::tidy::{assert_none, is_test_file, product_code};
use crate::tree::{Source, sources};

/// Maximum number of methods of a type, in all of its inherent `impl` blocks.
const METHODS_MAX: usize = 30;
/// Maximum number of fields of a struct.
const FIELDS_MAX: usize = 12;

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

/// Returns the name if a line declares a struct or an enum.
fn declared(line: &str) -> Option<&str> {
    let mut words = unqualified(line);
    let is_type = ["struct", "enum"].contains(&words.next()?);
    words.next().filter(|_| is_type)
}

impl Item<'_> {
    fn is(&self, keyword: &str) -> bool {
        unqualified(&self.head).next() == Some(keyword)
    }

    /// Returns the names of the types that the item declares, as a type or as a macro of types.
    fn declares(&self) -> impl Iterator<Item = &str> {
        let within = self.members.iter().copied();
        [&*self.head].into_iter().chain(within).filter_map(declared)
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
        self.count(|line| unqualified(line).next() == Some("fn"))
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

/// Returns the violations in a source: too many fields or methods, and each `impl` of a type that
/// the source does not declare.
fn broken(source: &Source) -> Vec<String> {
    let file = &source.name;
    let items = items(product_code(&source.text));
    let declared: BTreeSet<&str> = items.iter().flat_map(Item::declares).collect();
    let (mut methods, mut broken) = (BTreeMap::<&str, usize>::new(), Vec::new());
    for item in &items {
        if let Some(name) = item.implemented() {
            *methods.entry(name).or_default() += item.methods();
        }
        let (fields, head) = (item.fields(), &item.head);
        if item.is("struct") && fields > FIELDS_MAX {
            broken.push(format!("{file}: {fields} fields in {head}"));
        }
    }
    for (name, count) in methods {
        if !declared.contains(name) {
            broken.push(format!("{file}: {name} is not declared here"));
        }
        if count > METHODS_MAX {
            broken.push(format!("{file}: {count} methods of {name}"));
        }
    }
    broken
}

#[test]
fn a_type_has_few_methods_and_fields_and_its_impl_in_one_file() {
    let all = ["crates", "src"].into_iter().flat_map(sources);
    let is_product = |s: &Source| s.name.contains("src/") && !is_test_file(&s.name);
    let all: Vec<Source> = all.filter(is_product).collect();
    let items = all.iter().flat_map(|s| items(product_code(&s.text)));
    let blocks = items.filter(|it| it.implemented().is_some()).count();
    assert!(blocks > 500, "{blocks} blocks of methods");
    assert_none(
        all.iter().flat_map(broken).collect(),
        "a type of more than 30 methods or 12 fields, or an impl in another file than its type",
    );
}

/// A source with declarations of all kinds.
const SAMPLE: &str = r#"
pub(in crate::one) struct Narrow<'a> {
    /// A field.
    pub(in crate::one) first: &'a str,
    second: u8,
}

impl<'a, F: Fn() -> u8> one::Narrow<'a, F>
where
    F: Send,
{
    const MAX: usize = 3;

    pub(in crate::one) fn new() -> Self {
        let fn_like = 1;
    }

    pub(crate) const fn other() {}

    #[cfg(test)]
    fn of_tests() {}
}

impl Drop for Narrow<'_> {
    fn drop(&mut self) {}
}

#[cfg(test)]
impl Narrow<'_> {
    fn only_of_tests() {}
}

described! {
    pub enum Described as "Described" {
        First,
    }
}
"#;

#[test]
fn items_have_their_names_and_members() {
    let items = items(SAMPLE);
    let declared: Vec<&str> = items.iter().flat_map(Item::declares).collect();
    assert_eq!(declared, ["Narrow", "Described"]);
    assert_eq!(items[0].fields(), 2);
    let implemented: Vec<_> = items.iter().map(Item::implemented).collect();
    assert_eq!(implemented, [None, Some("Narrow"), None, None]);
    assert_eq!(items[1].methods(), 2);
}

#[test]
fn an_impl_in_another_file_than_its_type_is_reported() {
    let broken_in = |text: String| {
        let name = "a.rs".to_owned();
        broken(&Source { name, text })
    };
    assert_eq!(broken_in(SAMPLE.to_owned()), [""; 0]);
    let far = "impl Described {\n    fn far() {}\n}\n";
    assert_eq!(broken_in(format!("{SAMPLE}{far}")), [""; 0]);
    assert_eq!(
        broken_in(far.to_owned()),
        ["a.rs: Described is not declared here"]
    );
}

#[test]
fn a_type_over_a_limit_is_reported() {
    let of_type = |fields: usize, methods: usize| {
        let fields = "    pub(in crate::one) field: u8,\n".repeat(fields);
        let methods = "    pub(in crate::one) fn method() {}\n".repeat(methods);
        let text = format!("struct Large {{\n{fields}}}\n\nimpl Large {{\n{methods}}}\n");
        let name = "a.rs".to_owned();
        broken(&Source { name, text })
    };
    assert_eq!(of_type(FIELDS_MAX, METHODS_MAX), [""; 0]);
    let reported = [
        "a.rs: 13 fields in struct Large {",
        "a.rs: 31 methods of Large",
    ];
    assert_eq!(of_type(FIELDS_MAX + 1, METHODS_MAX + 1), reported);
}
