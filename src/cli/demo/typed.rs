//! Commands of the demo as a user would type them.

use std::ffi::OsStr;
use std::fs::metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use p2pfs_types::files::shell_word;

use crate::cli::output::LINE_COLUMNS;

/// Columns before the words in each continued line of a shown command.
const COMMAND_LEAD: usize = 6;

/// Returns the command as one line.
pub(super) fn typed(command: &Command) -> String {
    words_of(command).join(" ")
}

/// Returns the command on lines that fit a terminal, each continued by a backslash, so that a shell
/// can read it.
pub(super) fn typed_on_lines(command: &Command) -> String {
    on_lines(&words_of(command))
}

fn words_of(command: &Command) -> Vec<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = program_word(Path::new(command.get_program()), &path);
    let arguments = command.get_args().map(|word| shell_word(Path::new(word)));
    std::iter::once(program).chain(arguments).collect()
}

/// Returns the name of a program if a shell finds this program under it, otherwise its path.
fn program_word(program: &Path, search_path: &OsStr) -> String {
    let id = |file: &Path| {
        let found = metadata(file).ok()?;
        let is_executable = found.is_file() && found.mode() & 0o111 != 0;
        is_executable.then(|| (found.dev(), found.ino()))
    };
    let name = program.file_name().unwrap_or_default();
    let mut found = std::env::split_paths(search_path).filter_map(|dir| id(&dir.join(name)));
    let is_command = program.parent() == Some(Path::new(""));
    let is_found = is_command || id(program).is_some_and(|it| found.next() == Some(it));
    shell_word(if is_found { Path::new(name) } else { program })
}

fn on_lines(words: &[String]) -> String {
    let mut lines = vec![String::new()];
    for word in words {
        let line = lines.last_mut().expect("begins with a line");
        if line.is_empty() {
            line.push_str(word);
        } else if COMMAND_LEAD + line.len() + word.len() + " ".len() + " \\".len() > LINE_COLUMNS {
            lines.push(word.to_owned());
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join(" \\\n      ")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_long_command_is_continued_within_the_columns() {
        let folder = "/tmp/p2pfs-demo-w5oxCq";
        let mut command = Command::new("cp");
        command.arg(format!("{folder}/node1/mnt/films/harbour.bin"));
        command.arg(format!("{folder}/copy-of-the-film"));
        let shown = format!("  $ {}", typed_on_lines(&command));
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(
            shown.lines().all(|line| line.len() <= LINE_COLUMNS),
            "{shown}"
        );
        assert_eq!(
            typed_on_lines(Command::new("ls").args(["-lR", "x"])),
            "ls -lR x"
        );
    }

    #[test]
    fn a_program_is_shown_by_its_name_only_where_a_shell_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let dir = |name: &str| {
            let dir = folder.path().join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        let (own, other, link) = (dir("own"), dir("other"), dir("link"));
        let text = dir("text").join("program");
        let program = own.join("program");
        for (file, mode) in [
            (&program, 0o755),
            (&other.join("program"), 0o755),
            (&text, 0o644),
        ] {
            fs::write(file, "a program").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink(&program, link.join("program")).unwrap();
        let word = |dirs: &[&Path]| program_word(&program, &std::env::join_paths(dirs).unwrap());
        let whole = program.to_str().unwrap();
        assert_eq!(word(&[&own, &other]), "program");
        assert_eq!(word(&[&link, &other]), "program");
        assert_eq!(word(&[text.parent().unwrap(), &own]), "program");
        assert_eq!(word(&[&other, &own]), whole);
        assert_eq!(word(&[&folder.path().join("none")]), whole);
    }
}
