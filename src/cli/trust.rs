//! `p2pfs invite`, `join`, `leave`, `expel`, `rotate`, `own`, `forget`, `trust`: the members of the
//! cluster and their rights.

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use clap_complete::ArgValueCompleter;

use super::complete;
use super::connect::Reporting;
use super::daemon::{DaemonOptions, PlaceOptions, absolute, config_or_variable};
use super::error::CliError;
use super::names::shared_name;
use super::output::Output;
use super::questions;
use super::remark;
use super::text::{escape, escape_path, local_time, printable};
use crate::daemon::config::units::{self, write_count};
use crate::daemon::config::{Config, Sources, load_texts, readers_of, saved};
use crate::daemon::control::{
    Admitted, Call, Client, ClientError, Expelled, FailureKind, GoneNode, Invitation, Joined, Left,
    Named, Nothing, Process, Rotated, Settings, Shares, Status, Trust, TrustedNode,
};
use p2pfs_types::files::shell_word;
use p2pfs_types::id::{NodeId, NodeName};

/// Prefix of every token.
const TOKEN_PREFIX: &str = "p2pfs1-";
/// Maximum length of a token in bytes.
const TOKEN_MAX_BYTES: usize = 4096;
/// Maximum time that `p2pfs leave` waits for the end of the daemon.
const END_MAX: Duration = Duration::from_secs(15);

/// Maximum time to wait for the first other node after a join.
const PEER_MAX: Duration = Duration::from_secs(10);

/// Consequence if the last member with the admin right leaves.
const NOBODY_ADMITS: &str = "No other member may invite or expel:\n\
                             those who stay go on as they are, but nobody joins them any more";
/// Note for a node that left without another node knowing it.
const UNRECEIVED: &str = "No other node received this: the others take this node for a member\n\
                          until p2pfs expel NAME runs on one of them";
/// How to give the admin right to another member.
const GIVE_THE_RIGHT: &str =
    "To give one that right:\np2pfs invite --admin here, then p2pfs join - there";

/// The flags of `p2pfs invite`.
#[derive(Debug, Clone, Args)]
pub struct InviteOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// How long the token is valid
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1h",
        value_parser = lifetime
    )]
    expires: Duration,
    /// Let the new node invite and expel others itself
    #[arg(long)]
    admin: bool,
    /// The name in its certificate [default: the name of the new node]
    #[arg(long, value_name = "NAME")]
    name: Option<NodeName>,
}

/// The arguments of `p2pfs expel`.
#[derive(Debug, Clone, Args)]
pub struct ExpelOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The node, by its name or the start of its key
    #[arg(value_name = "NODE", add = ArgValueCompleter::new(complete::peers))]
    peer: String,
    /// Expel also the nodes that only it admitted, directly or through others
    #[arg(long)]
    with_admitted: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

/// The arguments of `p2pfs own`.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("whose").required(true).args(["peer", "nobody"])))]
#[command(override_usage = "p2pfs own [OPTIONS] <PATH> <NODE|--nobody>")]
pub struct OwnOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// A file or directory of the shared folder, as from the root of the mount
    path: OsString,
    /// The only node whose files are listed there, by its name or the start of its key
    #[arg(value_name = "NODE", add = ArgValueCompleter::new(complete::peers))]
    peer: Option<String>,
    /// Remove the owner, so that files of all nodes are listed there again
    #[arg(long)]
    nobody: bool,
    /// Go on without a question, although it hides files of others or nothing is there yet
    #[arg(long)]
    yes: bool,
}

/// The arguments of `p2pfs forget`.
#[derive(Debug, Clone, Args)]
pub struct ForgetOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The node, by its name, its address or the start of its key
    #[arg(value_name = "NODE", add = ArgValueCompleter::new(complete::peers))]
    peer: String,
}

/// The arguments of `p2pfs join`.
#[derive(Debug, Clone, Args)]
pub struct JoinOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// The token, which every local user can see while the command runs; without it, or with -,
    /// it is read from standard input
    #[arg(value_name = "-", default_value = "-", hide_default_value = true)]
    token: String,
    /// Do not ask before this node drops its current cluster
    #[arg(short, long)]
    yes: bool,
    /// The configuration of the daemon to join; stores the token in its state directory if that
    /// does not run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The state directory of the daemon to join; stores the token there if that does not run
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// The flags of `p2pfs leave`.
#[derive(Debug, Clone, Args)]
pub struct LeaveOptions {
    #[command(flatten)]
    reporting: Reporting,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

/// Parses the lifetime of an invitation. Refuses less than a second, because lifetimes are stored
/// in whole seconds.
fn lifetime(text: &str) -> Result<Duration, String> {
    let time = units::parse_positive_duration(text).map_err(|why| why.to_string())?;
    if time < Duration::from_secs(1) {
        Err(format!("{text:?} is too short: write 1s to 7d"))
    } else {
        Ok(time)
    }
}

pub(super) fn invite(options: &InviteOptions, output: &mut Output) -> Result<(), CliError> {
    let lifetime_s = options.expires.as_secs();
    let invitation: Invitation = options.reporting.open()?.call(&Call::Invite {
        lifetime_s,
        admin: options.admin,
        name: options.name.clone(),
    })?;
    if options.reporting.json {
        return output.json(&invitation);
    }
    output.line(&invitation.token)?;
    output.flush()?;
    if io::stderr().is_terminal() {
        remark(format_args!(
            "It serves once, until {}, while this daemon runs.\nOn the new node: p2pfs join -",
            local_time(invitation.expires)
        ));
        if let Some(address) = invitation.local_address() {
            remark(format_args!(
                "It serves on this machine only, because the node's address is {address}: see \
                 p2pfs doctor"
            ));
        }
    }
    Ok(())
}

pub(super) fn join(options: JoinOptions, output: &mut Output) -> Result<(), CliError> {
    let token = match options.token.as_str() {
        "-" => read_token()?,
        token => token.to_owned(),
    };
    let token = check(&token)?.to_owned();
    let names_state =
        options.state.is_some() || config_or_variable(options.config.clone()).is_some();
    match options.reporting.try_open() {
        Ok(mut client) => {
            if !is_meant(&mut client, &options)? {
                return keep(options, &token, true, output);
            }
            if !options.yes {
                ask_before_dropping(&mut client, &token)?;
                // The daemon closes the connection if the user answers late.
                client = options.reporting.open()?;
            }
            let joined: Joined = client.call(&Call::Join { token })?;
            let is_up = await_peer(&mut client);
            let text = if is_up {
                "joined the cluster"
            } else {
                "joined the cluster, but no other node answers yet: see p2pfs peers"
            };
            output.print_value_or_line(options.reporting.json, &joined, text)
        }
        // Without a daemon at the named socket, a mistyped one would leave the token for another.
        Err(ClientError::NotRunning { .. }) if !options.reporting.names_socket() || names_state => {
            keep(options, &token, false, output)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns whether the options name no other daemon than this one: neither another state directory
/// nor a configuration with another one.
fn is_meant(client: &mut Client, options: &JoinOptions) -> Result<bool, CliError> {
    let (state, config) = (&options.state, &options.config);
    let mut settings = || client.call::<Settings>(&Call::Settings {});
    match (state, config) {
        (None, None) => Ok(true),
        (Some(state), _) => is_state_of(&settings()?, state),
        (None, Some(config)) => {
            let settings = settings()?;
            if has_read(&settings, config) {
                return Ok(true);
            }
            let sources = sources(options, Some(config.clone()))?;
            let loaded = load_texts(&sources).map_err(Box::new)?;
            is_state_of(&settings, &loaded.config.state_dir)
        }
    }
}

/// Returns whether the daemon has read this configuration.
fn has_read(settings: &Settings, config: &Path) -> bool {
    let named = config.canonicalize();
    let mut files = settings.files.iter().map(|it| Path::new(it).canonicalize());
    named.is_ok_and(|named| files.any(|file| file.is_ok_and(|file| file == named)))
}

/// Returns the sources of the settings of a daemon with this configuration and the state directory
/// of the options.
fn sources(options: &JoinOptions, config: Option<PathBuf>) -> Result<Sources, CliError> {
    let daemon = DaemonOptions {
        config,
        places: PlaceOptions {
            state: options.state.clone(),
            ..PlaceOptions::default()
        },
        ..DaemonOptions::default()
    };
    daemon.sources()
}

/// Returns whether `state` is the state directory of the daemon with these settings.
fn is_state_of(settings: &Settings, state: &Path) -> Result<bool, CliError> {
    let mut lines = settings.settings.iter();
    let Some(setting) = lines.find(|it| it.key == "state_dir") else {
        return Ok(false);
    };
    // The value is quoted as in a configuration file.
    let table = toml::from_str::<toml::Table>(&format!("dir = {}", setting.value));
    let table = table.unwrap_or_default();
    let theirs = Path::new(table.get("dir").and_then(|it| it.as_str()).unwrap_or(""));
    let ours = absolute(state)?;
    let is_same_by_link = || {
        let (ours, theirs) = (ours.canonicalize(), theirs.canonicalize());
        ours.is_ok_and(|ours| theirs.is_ok_and(|theirs| ours == theirs))
    };
    Ok(ours == theirs || is_same_by_link())
}

/// Waits after a join until another node is up, for at most [`PEER_MAX`], so that the folder shows
/// the names of that node when the command ends. Returns whether another node is up.
fn await_peer(client: &mut Client) -> bool {
    let call = Call::Wait {
        mounted: false,
        peers: 1,
        file: None,
        timeout_ms: PEER_MAX.as_millis().try_into().unwrap_or(u64::MAX),
    };
    client.call::<Nothing>(&call).is_ok()
}

/// Asks for confirmation if this node is in a cluster with other members, unless the token is from
/// that cluster.
fn ask_before_dropping(client: &mut Client, token: &str) -> Result<(), CliError> {
    let trust: Trust = client.call(&Call::Trust {})?;
    let shares: Shares = client.call(&Call::Shares {})?;
    let members: Vec<String> = trust.members.into_iter().map(|it| it.node).collect();
    let restricted = shares.shares.iter().filter(|share| {
        let readers = share.readers.iter().flatten();
        readers.map(|it| &it.reader).any(|it| is_name(it))
    });
    let restricted: Vec<String> = restricted
        .map(|share| escape(share.dir.as_bytes()))
        .collect();
    ask_to_drop(&members, token, &restricted)
}

/// Asks for confirmation before the token replaces the cluster in the state directory of a daemon
/// that does not run.
fn ask_before_dropping_saved(config: &Config, token: &str) -> Result<(), CliError> {
    let state_dir = &config.state_dir;
    let members = saved::saved_members(state_dir);
    let members: Vec<String> = members.iter().map(ToString::to_string).collect();
    let added = saved::load_shares(state_dir).unwrap_or_default();
    let restricted = config.share.iter().chain(&added).filter(|share| {
        let readers = readers_of(share.readers.as_deref(), &config.groups);
        readers.iter().flatten().any(|it| is_name(it))
    });
    let restricted: Vec<String> = restricted
        .map(|share| escape(share.dir.as_os_str().as_encoded_bytes()))
        .collect();
    ask_to_drop(&members, token, &restricted)
}

/// Returns whether a reader is given by its name, and not by its key.
fn is_name(reader: &str) -> bool {
    reader.parse::<NodeId>().is_err()
}

/// Asks before this node leaves the cluster of `members` for the cluster of the token. Returns an
/// error if there is no terminal to ask on: the command line does not show that a cluster is
/// dropped. Does not ask if this node is the only member, or if a member issued the token.
/// `restricted` are the shares with readers given by name.
fn ask_to_drop(members: &[String], token: &str, restricted: &[String]) -> Result<(), CliError> {
    let issuer = Invitation::issuer_of(token);
    let is_of_theirs = members.iter().any(|it| Some(it) == issuer.as_ref());
    let others = members.len().saturating_sub(1);
    if others == 0 || is_of_theirs {
        return Ok(());
    }
    if !questions::has_terminal() {
        return Err(unconfirmed_drop(others, restricted));
    }
    let mut question = String::new();
    if !restricted.is_empty() {
        question = format!(
            "Some shares name their readers: {}.\n\
             In the new cluster these names mean no node until they are confirmed: p2pfs status\n\
             says how.\n",
            restricted.join(", ")
        );
    }
    question.push_str(&format!(
        "Drop the cluster that this node is in, with {others} more? Its members and their\n\
         files go from here, and only a token of theirs brings it back."
    ));
    questions::ask(&question, "answer y, or give --yes, to join another")
}

/// Returns the error for a cluster with `others` that would be dropped without a confirmation.
fn unconfirmed_drop(others: usize, restricted: &[String]) -> CliError {
    let members = if others == 1 { "member" } else { "members" };
    let mut message = format!(
        "cannot join without a confirmation: this drops the cluster with {others} other {members}"
    );
    if !restricted.is_empty() {
        let restricted = restricted.join(", ");
        message.push_str(&format!(
            ", and the names of readers of {restricted} then mean no node"
        ));
    }
    CliError::new(message, "give --yes to drop it and join the other")
}

/// Stores the token for the next start of the daemon, which does not run now. With `is_beside`, a
/// daemon runs on another state directory.
fn keep(
    options: JoinOptions,
    token: &str,
    is_beside: bool,
    output: &mut Output,
) -> Result<(), CliError> {
    Invitation::check_token(token)?;
    let json = options.reporting.json;
    let config = config_or_variable(options.config.clone());
    let loaded = load_texts(&sources(&options, config)?).map_err(Box::new)?;
    let state_dir = &loaded.config.state_dir;
    if saved::state_is_in_use(state_dir) {
        return Err(CliError::new(
            format!(
                "the state directory {} belongs to a running daemon",
                state_dir.display()
            ),
            "name its socket: --socket",
        ));
    }
    if !options.yes {
        ask_before_dropping_saved(&loaded.config, token)?;
    }
    let on_it = if is_beside { " on that directory" } else { "" };
    let before = saved::waiting_token(state_dir).unwrap_or_default();
    let file = saved::save_token(state_dir, token).map_err(|e| {
        CliError::new(
            format!(
                "no daemon runs{on_it}, and the token cannot be kept in {}: {e}",
                state_dir.display()
            ),
            "ask as the user that the daemon will run as, or start the daemon first",
        )
    })?;
    if json {
        return output.json(&serde_json::json!({"kept": Named::from_local(&file)}));
    }
    let start = match start_of(&options, &loaded.config, is_beside) {
        Some(command) => command,
        None if rustix::process::geteuid().is_root() => "systemctl start p2pfs".to_owned(),
        None => "p2pfs daemon".to_owned(),
    };
    let replaced = match before {
        Some(before) if before != token => ", in place of another that was stored there",
        _ => "",
    };
    let file = file.display();
    let kept = format!("no daemon runs{on_it}; the token is stored in {file}{replaced}");
    output.line(&format!(
        "{kept}\nstart the daemon before the token ends: {start}"
    ))
}

/// Returns the command that starts a daemon on the place that `options` name, or on the state
/// directory of the configuration if another daemon runs. `None` means the default place.
fn start_of(options: &JoinOptions, config: &Config, is_beside: bool) -> Option<String> {
    let named = |option: &str, path: &Path| format!(" {option} {}", shell_word(path));
    let place: String = match (&options.config, &options.state) {
        (None, None) if is_beside => named("--state", &config.state_dir),
        (file, dir) => [("--config", file), ("--state", dir)]
            .into_iter()
            .filter_map(|(option, path)| Some(named(option, path.as_deref()?)))
            .collect(),
    };
    (!place.is_empty()).then(|| format!("p2pfs daemon{place}"))
}

fn read_token() -> Result<String, CliError> {
    let mut token = String::new();
    let limit = u64::try_from(TOKEN_MAX_BYTES).unwrap_or(u64::MAX) + 2;
    let mut input = io::stdin().lock().take(limit);
    let read = if io::stdin().is_terminal() {
        // If nothing is piped in, the user pastes the token and ends it with a newline.
        eprint!("Paste the token: ");
        input.read_line(&mut token)
    } else {
        input.read_to_string(&mut token)
    };
    read.map_err(|e| {
        CliError::new(
            format!("cannot read the token from standard input: {e}"),
            "pipe it in",
        )
    })?;
    if token.trim().is_empty() {
        return Err(CliError::new(
            "nothing was read from standard input",
            "pipe the token in, or paste it",
        ));
    }
    Ok(token)
}

pub(super) fn leave(options: &LeaveOptions, output: &mut Output) -> Result<(), CliError> {
    let trust: Trust = options.reporting.open()?.call(&Call::Trust {})?;
    let is_last = is_last_to_admit(&trust);
    if !options.yes {
        let last = if is_last {
            format!("{NOBODY_ADMITS}.\n{GIVE_THE_RIGHT}.\n")
        } else {
            String::new()
        };
        questions::confirm(
            &format!(
                "{last}Leave the cluster for good? The others forget this node, its daemon stops,\n\
                 and only a new token brings it back."
            ),
            "cannot leave the cluster without a confirmation: only a new token brings this node back",
            "answer y, or give --yes, to leave",
        )?;
    }
    // The daemon closes the connection if the user answers late.
    let mut client = options.reporting.open()?;
    let status: Status = client.call(&Call::Status {})?;
    let daemon = Process::of(status.pid);
    let left: Left = client.call(&Call::Leave {})?;
    let goes_on = daemon.is_some_and(|daemon| !daemon.ends(END_MAX));
    if options.yes && is_last {
        remark(NOBODY_ADMITS);
    }
    if left.unreceived {
        remark(UNRECEIVED);
    }
    if options.reporting.json {
        return output.json(&left);
    }
    output.line(if goes_on {
        "left the cluster; the daemon is still stopping: it may wait for a disk"
    } else {
        "left the cluster, and the daemon has stopped"
    })?;
    output.line("to join one again: p2pfs join -")
}

/// Returns whether this node is the only one with the admin right in a cluster with other members.
/// After it leaves, no member can admit a node.
fn is_last_to_admit(trust: &Trust) -> bool {
    let who_may = trust.members.iter().filter(|member| member.admin).count();
    trust.admin && who_may == 1 && trust.members.len() > 1
}

pub(super) fn expel(options: &ExpelOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open()?;
    let (peer, with_admitted) = (options.peer.clone(), options.with_admitted);
    let asks = !options.yes;
    if asks || !options.reporting.json {
        let named: Admitted = client.call(&Call::Admitted { peer: peer.clone() })?;
        if !options.reporting.json {
            name_admitted(options, &named, output)?;
        }
        if asks {
            ask_before_expelling(options, &named)?;
            // The daemon closes the connection if the user answers late.
            client = options.reporting.open()?;
        }
    }
    let expelled: Expelled = client.call(&Call::Expel {
        peer,
        with_admitted,
    })?;
    if options.reporting.json {
        return output.json(&expelled);
    }
    let (name, count) = (printable(&options.peer), expelled.admitted.len());
    let with = match count {
        0 => String::new(),
        _ if with_admitted => format!(", and {count} with it"),
        _ => format!("; {count} by its word alone stay, and go by expel --with-admitted"),
    };
    output.line(&format!("{name} is out{with}"))?;
    output.line("the other members receive a fresh secret")?;
    if expelled.invitations == 0 {
        return Ok(());
    }
    let waiting = write_count(expelled.invitations, "invitation", "invitations");
    output.line(&format!(
        "{waiting} made here can still be used, though not by {name}; \
         a restart of the daemon ends them"
    ))
}

/// Lists the members admitted only by a node that is about to be expelled.
fn name_admitted(
    options: &ExpelOptions,
    named: &Admitted,
    output: &mut Output,
) -> Result<(), CliError> {
    if named.admitted.is_empty() {
        return Ok(());
    }
    let name = printable(&options.peer);
    output.line(&format!("in by the word of {name} alone:"))?;
    for member in &named.admitted {
        output.line(&format!("  {}", member_line(member)))?;
    }
    output.flush()
}

/// Asks for confirmation before a node is expelled.
fn ask_before_expelling(options: &ExpelOptions, named: &Admitted) -> Result<(), CliError> {
    let name = printable(&options.peer);
    let with = match named.admitted.len() {
        count if options.with_admitted && count > 0 => format!(", and {count} more with it"),
        _ => String::new(),
    };
    questions::confirm(
        &format!(
            "Expel {name} for good{with}? Its files go from all lists, and only a new\n\
             invitation brings it back."
        ),
        &format!(
            "cannot expel {name}{with} without a confirmation: only a new invitation brings it back"
        ),
        "answer y, or give --yes, to expel it",
    )
}

pub(super) fn own(options: &OwnOptions, output: &mut Output) -> Result<(), CliError> {
    let mut client = options.reporting.open()?;
    let path = match shared_name(&mut client, &options.path)? {
        // The name of the root is empty, which the daemon would take for a missing argument.
        whole if whole.as_bytes().is_empty() => Named::new("/"),
        path => path,
    };
    let peer = options.peer.clone();
    let name = escape_path(&path);
    let said = match &peer {
        Some(peer) => format!(
            "at and below {name}, only files of {} are listed",
            printable(peer)
        ),
        None => format!(
            "{name} has no owner of its own; the owner of a directory above it still counts"
        ),
    };
    let call = |confirmed: bool| Call::Own {
        path: path.clone(),
        peer: peer.clone(),
        confirmed,
    };
    let owned: Nothing = match client.call(&call(options.yes)) {
        Err(ClientError::Refused(failure))
            if failure.kind == FailureKind::Unconfirmed && questions::has_terminal() =>
        {
            questions::ask(
                &format!("{}. Go on?", printable(&failure.message)),
                "answer y, or give --yes, to go on",
            )?;
            // The daemon closes the connection if the user answers late.
            options.reporting.open()?.call(&call(true))?
        }
        owned => owned?,
    };
    output.print_value_or_line(options.reporting.json, &owned, &said)
}

pub(super) fn rotate(reporting: &Reporting, output: &mut Output) -> Result<(), CliError> {
    let rotated: Rotated = reporting.open()?.call(&Call::Rotate {})?;
    output.print_value_or_line(
        reporting.json,
        &rotated,
        "the members receive a fresh secret",
    )
}

pub(super) fn forget(options: &ForgetOptions, output: &mut Output) -> Result<(), CliError> {
    let peer = options.peer.clone();
    let forgotten: Nothing = options.reporting.open()?.call(&Call::Forget { peer })?;
    let text = format!("forgot what {} had listed", printable(&options.peer));
    output.print_value_or_line(options.reporting.json, &forgotten, &text)
}

pub(super) fn trust(reporting: &Reporting, output: &mut Output) -> Result<(), CliError> {
    let trust: Trust = reporting.open()?.call(&Call::Trust {})?;
    if reporting.json {
        return output.json(&trust);
    }
    if !trust.certificates {
        return output
            .line("every machine with the secret file is a member; p2pfs peers lists them");
    }
    for member in &trust.members {
        output.line(&member_line(member))?;
    }
    for owned in &trust.owners {
        let (path, name) = (escape_path(&owned.path), printable(&owned.name));
        output.line(&format!("{path}: only files of {name} are listed there"))?;
    }
    for gone in &trust.gone {
        output.line(&gone_line(gone))?;
    }
    Ok(())
}

fn gone_line(gone: &GoneNode) -> String {
    let by = match &*gone.what {
        "left" => String::new(),
        _ => format!(" by {}", printable(&gone.by)),
    };
    let with = gone.with.as_deref().map_or_else(String::new, |with| {
        format!(", with {}, who had let it in", printable(with))
    });
    let name = printable(&gone.name);
    format!("{name}: {} {}{by}{with}", gone.what, local_time(gone.time))
}

fn member_line(member: &TrustedNode) -> String {
    let how = if member.by_node == member.node {
        "founder".to_owned()
    } else {
        format!("by {}", printable(&member.by))
    };
    let admin = if member.admin { ", admin" } else { "" };
    let until = member
        .until
        .map(|until| format!(" until {}", local_time(until)));
    format!(
        "{}: since {}{}, {how}{admin}",
        printable(&member.name),
        local_time(member.since),
        until.unwrap_or_default()
    )
}

/// Checks the form of a token, which is possible without a key.
fn check(token: &str) -> Result<&str, CliError> {
    let token = token.trim();
    let letters = token
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let fits = token.len() <= TOKEN_MAX_BYTES && token.len() > TOKEN_PREFIX.len();
    if token.starts_with(TOKEN_PREFIX) && letters && fits {
        Ok(token)
    } else {
        Err(CliError::new(
            format!("that is not a token: a token begins with {TOKEN_PREFIX} and has no blanks"),
            "make one on a node of the cluster: p2pfs invite",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_without_a_confirmation_names_the_dropped_members_and_readers() {
        let said = unconfirmed_drop(2, &[]).to_string();
        assert!(said.starts_with("cannot join "), "{said}");
        assert!(said.contains("2 other members"), "{said}");
        assert!(!said.contains("readers"), "{said}");
        let said = unconfirmed_drop(1, &["/srv/plans".to_owned()]).to_string();
        assert!(said.contains("1 other member,"), "{said}");
        assert!(said.contains("readers of /srv/plans"), "{said}");
    }

    #[test]
    fn a_token_is_recognized_by_its_form() {
        assert_eq!(check(" p2pfs1-AbC_9-z\n").unwrap(), "p2pfs1-AbC_9-z");
        let long = format!("p2pfs1-{}", "x".repeat(TOKEN_MAX_BYTES));
        for bad in [
            "",
            "p2pfs1-",
            "hello",
            "p2pfs2-abc",
            "p2pfs1-a b",
            "p2pfs1-\u{e9}",
            &long,
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
