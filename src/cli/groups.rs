//! The commands in groups, as `p2pfs --help` lists them.

use clap::Command;

/// Columns of a command's name, with the blanks around it.
const NAME_COLUMNS: usize = 16;
/// The help of the program: the groups take the place of clap's flat list.
const TEMPLATE: &str = "{about-with-newline}\n{usage-heading} {usage}\n{before-help}\nOptions:\n\
                        {options}{after-help}";

/// The groups and their commands.
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
        let rows = names.iter().filter_map(|name| row(&command, name));
        format!("\n{heading}:\n{}", rows.collect::<String>())
    });
    command.help_template(TEMPLATE).before_help(list.concat())
}

/// Returns the line of a command, or `None` if this build lacks it.
fn row(command: &Command, name: &str) -> Option<String> {
    let about = command.find_subcommand(name)?.get_about()?;
    Some(format!(
        "  {name:<width$}{about}\n",
        width = NAME_COLUMNS - 2
    ))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let command = Cli::command();
        let mut all: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        let mut grouped: Vec<_> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        all.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(grouped, all);
    }
}
