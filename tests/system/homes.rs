//! Users of a machine with the system service: folders in their homes, and a service of their own
//! beside it.

use macro_rules_attribute::apply;

use super::service::{SystemdBox, boot_cluster, booted_systemd, start};
use crate::support::process::{Finished, HANG_LIMIT, eventually};
use crate::support::promise::{Need, mount, promise, root};

const NEEDS: &[Need] = &[root, booted_systemd, mount];
const ANN: u32 = 4321;

/// Adds the user ann, with a home of mode 0700 and a folder in it.
fn add_ann(machine: &SystemdBox) {
    machine.ok(&format!(
        "useradd --create-home --uid {ANN} ann && mkdir /home/ann/Pictures && \
         echo photo > /home/ann/Pictures/photo && chmod 644 /home/ann/Pictures/photo && \
         chmod 755 /home/ann/Pictures && chown -R ann: /home/ann && chmod 700 /home/ann"
    ));
}

fn acls_of_home(machine: &SystemdBox) -> String {
    machine.ok("getfacl -R -n -s -p -P /home/ann")
}

#[apply(promise)]
#[takes("setfacl", "getfacl")]
fn a_folder_of_a_closed_home_is_shared_by_acls_under_the_sandbox_of_the_service() {
    let machine = boot_cluster();
    start(&machine);
    add_ann(&machine);
    let refused = machine.sh("p2pfs share add /home/ann/Pictures < /dev/null");
    assert_eq!(refused.status.code(), Some(1));
    for part in [
        "user p2pfs is not let in by /home/ann;",
        "give --acl, which runs: setfacl -m u:p2pfs:x /home/ann",
    ] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    assert_eq!(acls_of_home(&machine), "");

    machine.ok("p2pfs share add --acl /home/ann/Pictures");
    machine.ok("p2pfs wait --file photo --timeout 60s --socket /root/second/sock");
    assert_eq!(machine.ok("cat /root/second/mnt/photo").trim(), "photo");
    // and it is shared again by the next daemon
    machine.ok("systemctl restart p2pfs && p2pfs wait --file photo --timeout 60s");
    machine.ok("echo new > /home/ann/Pictures/new && chmod 644 /home/ann/Pictures/new");
    machine.ok("p2pfs wait --file new --timeout 60s --socket /root/second/sock");
    assert_eq!(machine.ok("cat /root/second/mnt/new").trim(), "new");

    machine.ok("p2pfs share remove /home/ann/Pictures");
    assert_eq!(acls_of_home(&machine), "");
    eventually("it is listed no more", HANG_LIMIT, || {
        let listed = machine.sh("ls /root/second/mnt/photo");
        !listed.status.success()
    });
}

/// Starts the service manager of ann, as logind does at a login. The box has no logind.
fn start_manager_of_ann(machine: &SystemdBox) {
    machine.write(
        "/etc/systemd/system/user@.service.d/alone.conf",
        "[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n",
    );
    machine.ok(&format!(
        "systemctl daemon-reload && install -d -m 700 -o ann -g ann /run/user/{ANN} && \
         systemctl start user@{ANN}.service"
    ));
}

fn as_ann(machine: &SystemdBox, line: &str) -> Finished {
    let variables = format!("export HOME=/home/ann XDG_RUNTIME_DIR=/run/user/{ANN}");
    machine.sh_as("ann", &format!("{variables}; {line}"))
}

#[apply(promise)]
#[takes("fusermount3")]
fn a_users_service_names_the_port_of_the_systems_service_and_runs_beside_it_on_another() {
    let machine = boot_cluster();
    start(&machine);
    add_ann(&machine);
    start_manager_of_ann(&machine);
    let settings = "/home/ann/.config/p2pfs";
    as_ann(
        &machine,
        &format!(
            "mkdir -p {settings} && echo 'listen = \"127.0.0.1:1378\"' > {settings}/p2pfs.toml"
        ),
    )
    .expect_ok();
    let refused = as_ann(&machine, "systemctl --user start p2pfs");
    assert!(!refused.status.success(), "both listen on one port");
    let cause = "cannot listen on 127.0.0.1:1378: the system's p2pfs service has the port";
    eventually("the collision is named", HANG_LIMIT, || {
        machine.ok("journalctl --sync");
        let said = machine.ok(&format!("journalctl -q --no-pager -o cat _UID={ANN}"));
        said.contains(cause) && said.contains(&format!("into {settings}/p2pfs.toml"))
    });
    machine.ok("ls /mnt/p2p/resume.pdf && p2pfs status > /dev/null");

    machine.ok(&format!(
        "install -o ann -m 600 /etc/p2pfs/secret {settings}/secret"
    ));
    let other = format!(
        "printf '%s\\n' 'listen = \"127.0.0.1:1380\"' 'seeds = [\"127.0.0.1:1378\"]' \
         'secret_file = \"{settings}/secret\"' > {settings}/p2pfs.toml"
    );
    as_ann(&machine, &other).expect_ok();
    as_ann(&machine, "systemctl --user restart p2pfs").expect_ok();
    as_ann(
        &machine,
        "p2pfs wait --mounted --peers 2 --file resume.pdf --timeout 60s && \
         cat ~/p2p/resume.pdf > ~/read && p2pfs share add ~/Pictures",
    )
    .expect_ok();
    machine.ok("cmp /home/ann/read /root/second/share/resume.pdf");
    machine.ok("p2pfs wait --mounted --file photo --timeout 60s");
    assert_eq!(machine.ok("cat /mnt/p2p/photo").trim(), "photo");
    as_ann(&machine, "systemctl --user stop p2pfs").expect_ok();
    machine.ok("ls /mnt/p2p/resume.pdf && ! grep -q ' /home/ann/p2p ' /proc/self/mountinfo");
}
