//! Suggestions for misspelt and misplaced settings.

use strsim::damerau_levenshtein;

use super::setting::{SETTINGS, Setting};

/// Maximum number of letters in which a misspelt name differs from the right one.
const EDITS_MAX: usize = 2;

/// Returns the suggestion for an unknown key or section of a file, such as `; did you mean size?`.
/// Returns an empty text if no setting is like it.
pub(super) fn suggestion(keys: &[&str]) -> String {
    match keys {
        [top] => key_alike("", top).or_else(|| section_alike(top)),
        [section, name] => key_alike(section, name),
        _ => None,
    }
    .map_or_else(String::new, |meant| format!("; did you mean {meant}?"))
}

/// Returns the variable whose name is like an unknown one.
pub(super) fn variable_alike(unknown: &str) -> Option<String> {
    nearest(unknown, SETTINGS.iter().map(Setting::variable))
}

/// Finds a similar key of the same section, or the only other section with this key.
fn key_alike(section: &str, name: &str) -> Option<String> {
    let same = SETTINGS.iter().filter(|it| it.section() == section);
    if let Some(near) = nearest(name, same.map(|it| it.name().to_owned())) {
        return Some(near);
    }
    let mut elsewhere = SETTINGS.iter().filter(|it| it.name() == name);
    match (elsewhere.next(), elsewhere.next()) {
        (Some(it), None) if it.section().is_empty() => Some(format!("{name} above all sections")),
        (Some(it), None) => Some(format!("{name} in {}", in_brackets(it.section()))),
        _ => None,
    }
}

fn section_alike(name: &str) -> Option<String> {
    let sections = SETTINGS.iter().map(|it| it.section().to_owned());
    let sections = sections.filter(|it| !it.is_empty());
    nearest(name, sections).map(|it| in_brackets(&it))
}

fn in_brackets(section: &str) -> String {
    match section {
        "share" => "[[share]]".to_owned(),
        _ => format!("[{section}]"),
    }
}

/// Returns the known name with the fewest differences from an unknown one. At least half of the
/// letters have to agree.
fn nearest(unknown: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let edits = |it: &String| damerau_levenshtein(unknown, it);
    let most = EDITS_MAX.min(unknown.chars().count() / 2);
    let near = known.filter(|it| edits(it) <= most);
    near.min_by_key(edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_or_misplaced_setting_is_recognized() {
        for (keys, meant) in [
            (&["nam"] as &[_], "; did you mean name?"),
            (&["cash"], "; did you mean [cache]?"),
            (&["shares"], "; did you mean [[share]]?"),
            (&["cache", "sise"], "; did you mean size?"),
            (&["share", "dirr"], "; did you mean dir?"),
            (&["size"], "; did you mean size in [cache]?"),
            (&["floor"], ""),
            (
                &["cache", "seeds"],
                "; did you mean seeds above all sections?",
            ),
            (&["cache", "enabled"], ""),
            (&["quite_another"], ""),
            (&["x"], ""),
        ] {
            assert_eq!(suggestion(keys), meant, "{keys:?}");
        }
        let variable = variable_alike("P2PFS_CACHESIZE");
        assert_eq!(variable.as_deref(), Some("P2PFS_CACHE_SIZE"));
        assert_eq!(variable_alike("P2PFS_QUITE_ANOTHER"), None);
    }
}
