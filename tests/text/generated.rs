//! Files of the tree that are generated from declarations in the source.

use std::path::Path;
use std::{env, fs};

/// If this variable has any value, tests write the generated files instead of comparing them.
const WRITE: &str = "P2PFS_WRITE_GENERATED";

/// Maximum length of a line of text in a manual page and in the catalog of messages, in bytes.
const LINE_MAX_BYTES: usize = 79;

/// Returns the text of a file of the tree.
pub(crate) fn in_tree(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Breaks a text into lines.
pub(crate) fn wrapped(text: &str) -> String {
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split(' ') {
        if length > 0 && length + 1 + word.len() <= LINE_MAX_BYTES {
            lines.push(' ');
            length += 1 + word.len();
        } else {
            if length > 0 {
                lines.push('\n');
            }
            length = word.len();
        }
        lines.push_str(word);
    }
    lines
}

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
