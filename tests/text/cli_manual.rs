//! The man pages and the packaging are complete: they have every command, option, setting, variable
//! and field.

use std::collections::BTreeSet;

use p2pfs::cli;
use p2pfs::daemon::config::SETTINGS;

use crate::config_pages;

/// Returns the text of a page without font changes and escapes.
fn page(source: &str) -> String {
    let mut text = source.replace("\\-", "-");
    for font in ["\\fR", "\\fB", "\\fI", "\\fP"] {
        text = text.replace(font, "");
    }
    text
}

fn commands() -> String {
    page(include_str!("../../man/p2pfs.1"))
}

/// Returns the generated page, which another test compares with the file. If that test writes the
/// file instead, the text that was compiled in lacks a new setting.
fn settings() -> String {
    page(&config_pages::settings_page())
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
        .collect()
}

/// Calls a function with each command and its full name, such as `p2pfs cache ls`.
pub(crate) fn every_command(
    command: &clap::Command,
    name: &str,
    found: &mut Vec<(String, clap::Command)>,
) {
    for inner in command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help")
    {
        let full = format!("{name} {}", inner.get_name());
        found.push((full.clone(), inner.clone()));
        every_command(inner, &full, found);
    }
}

#[test]
fn every_command_and_option_is_in_the_manual() {
    let mut found = Vec::new();
    every_command(&cli::command(), "p2pfs", &mut found);
    let manual = commands();
    let words = words(&manual);
    assert!(found.len() > 20);
    for (name, command) in found {
        if command.get_subcommands().next().is_none() {
            assert!(manual.contains(&name), "{name} is not in p2pfs(1)");
        }
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(
                words.contains(&*format!("--{option}")),
                "--{option} of {name}"
            );
        }
        for option in command.get_arguments().filter_map(clap::Arg::get_short) {
            assert!(
                words.contains(&*format!("-{option}")),
                "-{option} of {name}"
            );
        }
    }
}

/// Returns the parts of the man pages and the documentation that may be command lines: the
/// arguments of font macros, code spans and lines of code blocks.
fn command_lines() -> Vec<String> {
    let pages = [
        include_str!("../../man/p2pfs.1"),
        include_str!("../../man/p2pfs.7"),
        include_str!("../../man/p2pfs.8"),
        include_str!("../../man/p2pfs-legacy.7"),
        include_str!("../../man/p2pfs.toml.5"),
    ];
    let documents = [
        include_str!("../../README.md"),
        include_str!("../../docs/administration.md"),
        include_str!("../../docs/security.md"),
        include_str!("../../docs/tls.md"),
        include_str!("../../docs/transfer.md"),
    ];
    let mut found = Vec::new();
    for line in pages.map(page).iter().flat_map(|text| text.lines()) {
        let macro_and_rest = line.split_once(' ');
        let fonts = [".B", ".BR", ".BI", ".RB", ".IB"];
        if let Some((_, rest)) = macro_and_rest.filter(|(name, _)| fonts.contains(name)) {
            found.extend(rest.split('"').map(str::to_owned));
        }
    }
    for text in documents {
        let lines = text.lines().map(|line| line.trim_start_matches("$ "));
        let spans = text.split('`').chain(lines);
        found.extend(
            spans
                .filter(|it| it.starts_with("p2pfs "))
                .map(str::to_owned),
        );
    }
    found
}

/// Returns the options of a command line that its command does not have.
fn unknown_options(line: &str) -> Vec<String> {
    // A comment or another program's command may follow.
    let line = line.split(['#', '|', ';', '&']).next().unwrap_or_default();
    let mut command = cli::command();
    let mut known: BTreeSet<String> = ["help", "version"].map(str::to_owned).into();
    let mut is_command = false;
    let mut names = line.split_whitespace().peekable();
    names.next_if_eq(&"p2pfs");
    loop {
        known.extend(
            command
                .get_arguments()
                .filter_map(|it| it.get_long().map(str::to_owned)),
        );
        let inner = names.next().and_then(|name| command.find_subcommand(name));
        let Some(inner) = inner.cloned() else { break };
        command = inner;
        is_command = true;
    }
    let options = words(line)
        .into_iter()
        .filter_map(|word| word.strip_prefix("--"));
    let unknown = options.filter(|it| is_command && !it.is_empty() && !known.contains(*it));
    unknown.map(str::to_owned).collect()
}

#[test]
fn every_command_is_in_one_group_of_the_help() {
    let command = cli::command();
    let help = command.get_before_help().unwrap().to_string();
    let mut listed: Vec<&str> = help
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .collect();
    let names = command.get_subcommands().map(clap::Command::get_name);
    let mut all: Vec<&str> = names.filter(|name| *name != "help").collect();
    listed.sort_unstable();
    all.sort_unstable();
    assert_eq!(listed, all, "src/cli/groups.rs lists the groups");
}

#[test]
fn every_option_of_a_command_in_the_documentation_exists() {
    let lines = command_lines();
    let with_options = lines.iter().filter(|line| line.contains(" --")).count();
    assert!(with_options > 20, "only {with_options} lines have options");
    let unknown = lines
        .iter()
        .filter(|line| !unknown_options(line).is_empty());
    assert_eq!(Vec::from_iter(unknown), Vec::<&String>::new());
    assert_eq!(unknown_options("share ls --files"), ["files"]);
}

#[test]
fn every_option_and_command_has_a_line_of_help() {
    let mut found = Vec::new();
    every_command(&cli::command(), "p2pfs", &mut found);
    for (name, command) in found {
        assert!(command.get_about().is_some(), "{name}");
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{} of {name}",
                argument.get_id()
            );
        }
    }
}

#[test]
fn every_setting_and_every_variable_is_in_the_manual() {
    let manual = settings();
    let words = words(&manual);
    for setting in SETTINGS.iter() {
        let (section, key) = setting.key.split_once('.').unwrap_or(("", setting.key));
        assert!(words.contains(key), "{}", setting.key);
        assert!(
            manual.contains(&format!("[{section}]")) || section.is_empty(),
            "[{section}]"
        );
        assert!(
            words.contains(&*setting.variable()),
            "{}",
            setting.variable()
        );
    }
    for legacy in ["HOST", "PORT", "PERIOD", "WAITING", "FOLDER", "CLUSTER"] {
        assert!(words.contains(&*format!("P2P_{legacy}")), "P2P_{legacy}");
    }
}

#[test]
fn the_brokers_unit_has_no_option_that_hides_the_mount() {
    let unit = include_str!("../../packaging/p2pfs-broker.service");
    let options: Vec<&str> = unit
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('=').map(|(key, _)| key))
        .collect();
    for hiding in [
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateUsers",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "ProtectHostname",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "TemporaryFileSystem",
        "BindPaths",
        "BindReadOnlyPaths",
        "RootDirectory",
        "RootImage",
        "MountFlags",
        "DynamicUser",
    ] {
        assert!(
            !options.contains(&hiding),
            "{hiding}= gives the service a mount namespace"
        );
    }
}

/// Errors of the filesystem that never reach a program.
const NEVER_SEEN: [&str; 2] = ["EBADF", "ENOSYS"];

#[test]
fn every_error_and_attribute_of_the_folder_is_in_its_manual() {
    let manual = page(include_str!("../../man/p2pfs.7"));
    let errors = manual.split(".SH ").find(|part| part.starts_with("ERRORS"));
    let errors = words(errors.unwrap());
    let source = include_str!("../../crates/fs/src/error.rs");
    let table = source.split("pub const fn errno").nth(1).unwrap();
    let table = table.split("pub const fn").next().unwrap();
    let chosen: BTreeSet<&str> = table
        .split("libc::")
        .skip(1)
        .map(|rest| {
            rest.split(|c: char| !c.is_ascii_alphanumeric())
                .next()
                .unwrap()
        })
        .filter(|name| !NEVER_SEEN.contains(name))
        .collect();
    assert!(chosen.len() > 10, "{chosen:?}");
    let missing: Vec<_> = chosen
        .iter()
        .filter(|name| !errors.contains(**name))
        .collect();
    assert!(missing.is_empty(), "not in p2pfs(7): {missing:?}");
    for attribute in ["hash", "holders", "cached", "verified", "from"] {
        assert!(
            manual.contains(&format!("\n.B user.p2pfs.{attribute}\n")),
            "{attribute}"
        );
    }
}

#[test]
fn groff_formats_every_page_without_a_warning() {
    let pages = [
        "p2pfs.1",
        "p2pfs-json.5",
        "p2pfs.toml.5",
        "p2pfs.7",
        "p2pfs-legacy.7",
        "p2pfs-limits.7",
        "p2pfs.8",
    ];
    for name in pages {
        let path = format!("{}/man/{name}", env!("CARGO_MANIFEST_DIR"));
        let set = std::process::Command::new("groff")
            // As a terminal shows it, without pages: a table may fall on a page break of paper.
            .args(["-t", "-man", "-Tutf8", "-ww", "-z", &path])
            .output();
        let Ok(set) = set else {
            eprintln!("SKIPPED: groff is not installed");
            return;
        };
        let said = String::from_utf8_lossy(&set.stderr);
        assert!(set.status.success() && said.is_empty(), "{name}: {said}");
    }
}
