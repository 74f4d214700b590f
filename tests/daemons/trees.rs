//! Trees whose links contain the path where they were made, used through another node's mount: a
//! root filesystem, a Python environment.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use macro_rules_attribute::apply;

use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[mount, root];

fn two_nodes(cluster: &mut Cluster) -> (Node, Node) {
    let author = cluster.start("author");
    let reader = cluster.start("reader");
    (author, reader)
}

/// Copies a program and its linked libraries below `to`, under their own paths.
fn copy_with_libraries(program: &str, to: &Path) {
    let linked = run(Command::new("ldd").arg(program)).expect_ok();
    let libraries = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    for file in libraries.chain([program]) {
        let copy = to.join(file.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        copy_program(file, &copy);
    }
}

#[track_caller]
fn wait_until_it_leads_somewhere(link: &Path) {
    eventually("the link leads somewhere", HANG_LIMIT, || link.exists());
}

/// The tree is made outside the share, moved in whole, and linked last, because an absolute link is
/// judged by its target.
#[apply(promise)]
#[takes("ldd", "chroot")]
fn a_root_filesystem_with_absolute_inner_links_works_on_another_node() {
    let mut cluster = Cluster::new();
    let (author, reader) = two_nodes(&mut cluster);
    let staged = author.home.join("system");
    let programs = staged.join("programs");
    for program in ["/bin/sh", "/bin/cat"] {
        let program = fs::canonicalize(program).unwrap();
        copy_with_libraries(program.to_str().unwrap(), &programs);
    }
    fs::create_dir(staged.join("etc")).unwrap();
    fs::write(staged.join("etc/name"), "a system\n").unwrap();
    let system = author.share.join("system");
    fs::rename(&staged, &system).unwrap();
    let tops = fs::read_dir(system.join("programs")).unwrap();
    for top in tops.map(|entry| entry.unwrap()) {
        symlink(top.path(), system.join(top.file_name())).unwrap();
    }
    // These links give the programs the names that they have on the source system.
    let mut run_as = vec![];
    for program in ["sh", "cat"] {
        let real = fs::canonicalize(Path::new("/bin").join(program)).unwrap();
        let inside = system
            .join("programs")
            .join(real.strip_prefix("/").unwrap());
        symlink(inside, system.join(format!("run-{program}"))).unwrap();
        run_as.push(reader.mounted(&format!("system/run-{program}")));
    }
    run_as
        .iter()
        .for_each(|link| wait_until_it_leads_somewhere(link));
    reader.wait_for_file("system/etc/name");
    let mut inside = Command::new("chroot");
    inside.arg(reader.mounted("system"));
    let said = run(inside.args(["/run-sh", "-c", "echo in $PWD; /run-cat /etc/name"]));
    assert_eq!(
        (said.text(), said.stderr.as_str()),
        ("in /\na system\n".to_owned(), "")
    );
}

#[apply(promise)]
#[takes("python3")]
fn a_python_environment_with_absolute_inner_links_works_on_another_node() {
    let mut cluster = Cluster::new();
    let (author, reader) = two_nodes(&mut cluster);
    let find = "import sys; print(sys.executable)";
    let found = run(Command::new("python3").args(["-I", "-c", find])).expect_ok();
    let interpreter = fs::canonicalize(found.trim()).unwrap();
    let home = author.share.join("python/bin");
    fs::create_dir_all(&home).unwrap();
    copy_program(interpreter.to_str().unwrap(), &home.join("python3"));
    // `python3 -m venv` makes these files.
    let environment = author.share.join("environment");
    fs::create_dir_all(environment.join("bin")).unwrap();
    symlink(home.join("python3"), environment.join("bin/python3")).unwrap();
    symlink("python3", environment.join("bin/python")).unwrap();
    let config = format!(
        "home = {}\ninclude-system-site-packages = false\n",
        home.display()
    );
    fs::write(environment.join("pyvenv.cfg"), config).unwrap();
    let python: PathBuf = reader.mounted("environment/bin/python");
    wait_until_it_leads_somewhere(&python);
    reader.wait_for_file("environment/pyvenv.cfg");
    let say = "import json, sys; print(sys.prefix)";
    let said = run(Command::new(&python).args(["-B", "-c", say])).expect_ok();
    assert_eq!(Path::new(said.trim()), reader.mounted("environment"));
}
