//! The commands in groups, as `p2pfs --help` lists them.

use clap::{Command, Subcommand};

use super::{
    FileCommand, MemberCommand, OlderCommand, ProgramCommand, ShareCommand, StartCommand,
    StateCommand,
};

/// Columns of a command's name, with the blanks around it.
const NAME_COLUMNS: usize = 16;
/// The help of the program: the groups take the place of clap's flat list.
const TEMPLATE: &str = "{about-with-newline}\n{usage-heading} {usage}\n{before-help}\nOptions:\n\
                        {options}{after-help}";

/// A heading, and a function that adds the commands of its group to a command.
type CommandGroup = (&'static str, fn(Command) -> Command);

/// The groups in the order of the help.
const GROUPS: [CommandGroup; 7] = [
    ("Start", StartCommand::augment_subcommands),
    ("Share", ShareCommand::augment_subcommands),
    ("Files", FileCommand::augment_subcommands),
    ("Members", MemberCommand::augment_subcommands),
    ("State", StateCommand::augment_subcommands),
    ("Older programs", OlderCommand::augment_subcommands),
    ("For other programs", ProgramCommand::augment_subcommands),
];

/// Lists the commands by group in the help of the program.
pub(super) fn grouped(command: Command) -> Command {
    let list = GROUPS.map(|(heading, add_commands)| {
        let group = add_commands(Command::new(heading));
        let rows = group.get_subcommands().map(row);
        format!("\n{heading}:\n{}", rows.collect::<String>())
    });
    command.help_template(TEMPLATE).before_help(list.concat())
}

/// Returns the line of a command.
fn row(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string);
    let (name, about) = (command.get_name(), about.unwrap_or_default());
    format!("  {name:<width$}{about}\n", width = NAME_COLUMNS - 2)
}
