//! Files of the tree that are generated from declarations in the source.

use std::path::Path;
use std::{env, fs};

/// Set to any value, tests write the generated files instead of comparing them.
const WRITE: &str = "P2PFS_WRITE_GENERATED";

/// Asserts that a file of the tree has this text.
pub(crate) fn assert_generated(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if env::var_os(WRITE).is_some() {
        fs::write(&path, text).unwrap();
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let first = found
        .lines()
        .zip(text.lines())
        .find(|(is, wanted)| is != wanted);
    assert!(
        found == text,
        "{name} is not what the source generates; write it with {WRITE}=1 cargo test --test text; \
         first difference: {first:?}"
    );
}

/// Returns a text with a part replaced: from the first mark to before the second one.
pub(crate) fn between(text: &str, (first, second): (&str, &str), part: &str) -> String {
    let start = text.find(first).unwrap_or_else(|| panic!("no {first:?}"));
    let behind = start + first.len();
    let length = text[behind..].find(second);
    let end = behind + length.unwrap_or_else(|| panic!("no {second:?} behind {first:?}"));
    format!("{}{part}{}", &text[..start], &text[end..])
}
