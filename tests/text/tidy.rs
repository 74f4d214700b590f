//! A rule of the tests that neither the compiler nor clippy can check.

use crate::tree::sources;

#[test]
fn tests_that_need_something_of_the_machine_say_so() {
    let attribute = concat!("#[", "test]");
    let broken: Vec<String> = ["tests/mount", "tests/daemons", "tests/system"]
        .into_iter()
        .flat_map(sources)
        .filter(|source| source.text.contains(attribute))
        .map(|source| source.name)
        .collect();
    assert!(
        broken.is_empty(),
        "{attribute} is never run here, #[apply(promise)] is: {broken:?}"
    );
}
