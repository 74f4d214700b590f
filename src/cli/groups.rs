//! The commands in groups, as `p2pfs --help` lists them.

use clap::Command;

/// Columns of a command's name, with the blanks around it.
const NAME_COLUMNS: usize = 16;
/// The help of the program: the groups take the place of clap's flat list.
const TEMPLATE: &str = "{about-with-newline}\n{usage-heading} {usage}\n{before-help}\nOptions:\n\
                        {options}{after-help}";

/// The groups and their commands. `tests/text/cli_manual.rs` compares them with the commands.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Start", &["daemon", "demo", "wait"]),
    ("Share", &["share", "send", "say"]),
    (
        "Files",
        &["ls", "get", "why", "prefetch", "pin", "unpin", "cache"],
    ),
    (
        "Members",
        &[
            "invite", "join", "leave", "expel", "rotate", "own", "forget", "trust",
        ],
    ),
    (
        "State",
        &[
            "status", "peers", "ping", "doctor", "top", "events", "config", "limits",
        ],
    ),
    ("Older programs", &["legacy-shell", "mesh-shell"]),
    ("For other programs", &["mount-broker", "completions"]),
];

/// Lists the commands by group in the help of the program.
pub(super) fn grouped(command: Command) -> Command {
    let list = GROUPS.map(|(heading, names)| {
        let rows = names.iter().map(|name| row(&command, name));
        format!("\n{heading}:\n{}", rows.collect::<String>())
    });
    command.help_template(TEMPLATE).before_help(list.concat())
}

/// Returns the line of a command, without a text if there is no such command.
fn row(command: &Command, name: &str) -> String {
    let about = command.find_subcommand(name).and_then(Command::get_about);
    let about = about.map(ToString::to_string).unwrap_or_default();
    format!("  {name:<width$}{about}\n", width = NAME_COLUMNS - 2)
}
