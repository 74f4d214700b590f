//! The section CONDITIONS of p2pfs(8) and the entries of the catalog of messages are generated from
//! the table of conditions.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use p2pfs_node::{Condition, Severity};

use crate::generated::{assert_generated, between, in_tree, wrapped};

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

#[test]
fn manual_lists_the_conditions_of_the_table() {
    let marks = (".\\\" conditions begin\n", ".\\\" conditions end\n");
    let mut roff = marks.0.to_owned();
    for text in Condition::ALL.iter().map(|it| it.text()) {
        let word = match text.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (name, part) = (text.name.replace('-', "\\-"), text.part);
        writeln!(roff, ".TP\n.BR {name} \" (\" {part} \", \" {word} )").unwrap();
        let sentences = text.sentence.split(". ");
        for sentence in sentences {
            let end = if sentence.ends_with('.') { "" } else { "." };
            writeln!(roff, "{}", wrapped(&format!("{sentence}{end}"))).unwrap();
        }
        writeln!(
            roff,
            ".br\n{}.",
            wrapped(&format!("Remedy: {}", text.remedy))
        )
        .unwrap();
        writeln!(roff, ".br\nMESSAGE_ID={}", text.message_id).unwrap();
    }
    let page = in_tree("man/p2pfs.8");
    assert_generated("man/p2pfs.8", &between(&page, marks, &roff));
}

#[test]
fn catalog_explains_the_conditions_of_the_table() {
    let marks = ("# Conditions, generated from their table\n", "# End\n");
    let mut entries = marks.0.to_owned();
    for text in Condition::ALL.iter().map(|it| it.text()) {
        let subject = text.sentence.split(". ").next().unwrap_or_default();
        let subject = subject.trim_end_matches('.');
        let name = text.name;
        write!(
            entries,
            "\n-- {}\nSubject: {subject}\nDefined-By: p2pfs\nDocumentation: man:p2pfs(8)\n\n{}\n{}.\n\n{}\n",
            text.message_id,
            wrapped(text.sentence),
            wrapped(&capital(text.remedy)),
            wrapped(&format!(
                "The condition {name} has a line in the journal when it begins and one when it \
                 ends. While it stands, 'p2pfs status' shows it."
            )),
        )
        .unwrap();
    }
    let catalog = in_tree("packaging/p2pfs.catalog");
    assert_generated(
        "packaging/p2pfs.catalog",
        &between(&catalog, marks, &entries),
    );
}

/// Returns the names of the conditions that a rule of the alerts lists.
fn listed_by(rule: &str, rules: &str) -> BTreeSet<String> {
    let found = rules.split("- alert: ").find(|it| it.starts_with(rule));
    let (_, names) = found.unwrap().split_once("name=~\"").unwrap();
    let names = names.split('"').next().unwrap_or_default();
    names.split('|').map(str::to_owned).collect()
}

#[test]
fn every_condition_has_one_alert_rule_of_its_severity() {
    // These conditions can last long on healthy nodes.
    let notes = [
        Condition::NoPassthrough,
        Condition::ShareProblem,
        Condition::Unreached,
    ];
    let rules = in_tree("packaging/grafana/alerts.yml");
    let names = |of: &dyn Fn(&Condition) -> bool| -> BTreeSet<String> {
        let all = Condition::ALL.iter().filter(|it| of(it));
        all.map(|it| it.text().name.to_owned()).collect()
    };
    let is_error = |it: &Condition| it.text().severity == Severity::Error;
    let is_note = |it: &Condition| notes.contains(it);
    assert_eq!(listed_by("P2pfsError", &rules), names(&is_error));
    let warnings = names(&|it| !is_error(it) && !is_note(it));
    assert_eq!(listed_by("P2pfsWarning", &rules), warnings);
    assert_eq!(listed_by("P2pfsNote", &rules), names(&is_note));
}
