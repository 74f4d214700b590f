//! The interface of the control socket in Varlink's language and the tables of p2pfs-json(5)
//! are generated from the declarations in `src/daemon/control`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use p2pfs::daemon::control::{
    CALLS, CallInfo, EventKind, Field, FieldType, INTERFACE, ObjectType, Right,
};

use crate::generated::{assert_generated, between};
use crate::roff::{paragraphs, set};

/// The interface in Varlink's language.
const INTERFACE_FILE: &str = "src/daemon/control/org.p2pfs.Control.varlink";
/// The manual page of the fields.
const PAGE: &str = "man/p2pfs-json.5";
/// The first release. Only calls of later releases name their release.
const FIRST_RELEASE: &str = "0.1.0";
/// Maximum length of a line of the interface, in bytes.
const LINE_MAX_BYTES: usize = 100;
/// The beginning of the interface.
const HEAD: &str = "\
# Queries and controls a running p2pfs daemon. Sizes are bytes, times RFC 3339. A name that is not
# UTF-8 is sent twice: as path, lossy, and as path_base64, exact. The daemon accepts either of them;
# path_base64 takes precedence.
";
/// The text about the interface in the manual.
const SOCKET: &str = "\
.SS \"The control socket\"
The daemon itself uses Varlink on its socket, interface org.p2pfs.Control;
.B varlinkctl introspect
shows the whole interface.
";
/// The end of the interface: its errors.
const ERRORS: &str = "
# No such name, share, peer or content
error NotFound (message: string, remedy: ?string)
# The condition was not met in time
error TimedOut (message: string, remedy: ?string)
# The daemon has too many calls or connections; try again
error Busy (message: string, remedy: ?string)
# The daemon is ending; the call can be repeated at the next daemon
error Stopping (message: string, remedy: ?string)
# The daemon tried and failed
error Failed (message: string, remedy: ?string)
";

/// Returns the fields of an object; empty for another type.
fn fields_of(kind: &FieldType) -> &[Field] {
    match kind {
        FieldType::Object(object) => &object.fields,
        _ => &[],
    }
}

/// Returns the fields of all replies of a call. A field that some reply lacks is optional.
pub(crate) fn reply_fields(call: &CallInfo) -> Vec<Field> {
    let replies = (call.replies)();
    let mut all: Vec<Field> = Vec::new();
    for field in replies.iter().flat_map(fields_of) {
        if all.iter().any(|known| known.name == field.name) {
            continue;
        }
        let has_it = |reply: &FieldType| fields_of(reply).iter().any(|it| it.name == field.name);
        let kind = if replies.iter().all(has_it) {
            field.kind.clone()
        } else {
            field.kind.clone().optional()
        };
        all.push(Field {
            kind,
            ..field.clone()
        });
    }
    all
}

/// Adds the objects within a type to a list, each after those that it consists of.
fn objects_within(kind: &FieldType, found: &mut Vec<ObjectType>) {
    match kind {
        FieldType::List(inner) | FieldType::Optional(inner) => objects_within(inner, found),
        FieldType::Object(object) => {
            for field in &object.fields {
                objects_within(&field.kind, found);
            }
            if found.iter().all(|known| known.name != object.name) {
                found.push(object.clone());
            }
        }
        _ => {}
    }
}

/// Returns the objects that parameters and replies of these calls consist of.
fn objects(calls: &[CallInfo]) -> Vec<ObjectType> {
    let mut found = Vec::new();
    for call in calls {
        let fields = (call.parameters)().into_iter().chain(reply_fields(call));
        fields.for_each(|field| objects_within(&field.kind, &mut found));
    }
    found
}

fn varlink_type(kind: &FieldType) -> String {
    match kind {
        FieldType::Int => "int".to_owned(),
        FieldType::Float => "float".to_owned(),
        FieldType::Bool => "bool".to_owned(),
        FieldType::Text | FieldType::Time => "string".to_owned(),
        FieldType::Word(words) => format!("({})", words.join(", ")),
        FieldType::List(inner) => format!("[]{}", varlink_type(inner)),
        FieldType::Optional(inner) => format!("?{}", varlink_type(inner)),
        FieldType::Object(object) => object.name.to_owned(),
    }
}

/// Appends a list of fields in brackets: in one line, or one field a line.
fn push_fields(text: &mut String, fields: &[Field]) {
    let each = fields
        .iter()
        .map(|it| format!("{}: {}", it.name, varlink_type(&it.kind)));
    let each: Vec<String> = each.collect();
    let line = format!("({})", each.join(", "));
    let begun = text.lines().last().map_or(0, str::len);
    if begun + line.len() <= LINE_MAX_BYTES {
        text.push_str(&line);
    } else {
        write!(text, "(\n  {}\n)", each.join(",\n  ")).unwrap();
    }
}

/// Returns the beginning of a method's description: the right and the flag that it needs.
fn needs(call: &CallInfo) -> String {
    let right = match call.right {
        Right::Read => None,
        Right::Cache => Some("the group p2pfs"),
        Right::Own => Some("root or the daemon's user"),
    };
    match (right, call.needs_more) {
        (None, false) => String::new(),
        (None, true) => "Must be called with more. ".to_owned(),
        (Some(right), false) => format!("Needs {right}. "),
        (Some(right), true) => format!("Needs {right}, and must be called with more. "),
    }
}

fn method(call: &CallInfo) -> String {
    let about = paragraphs(call.about).join(" ").replace('`', "");
    let mut about = needs(call) + about.trim_end_matches('.');
    if call.since != FIRST_RELEASE {
        write!(about, ". Since p2pfs {}", call.since).unwrap();
    }
    let mut text = crate::config_pages::comment(&about);
    write!(text, "method {}", call.name).unwrap();
    push_fields(&mut text, &(call.parameters)());
    text.push_str(" -> ");
    push_fields(&mut text, &reply_fields(call));
    text + "\n"
}

fn interface() -> String {
    let mut text = format!("{HEAD}interface {INTERFACE}\n\n");
    for object in objects(CALLS) {
        write!(text, "type {} ", object.name).unwrap();
        push_fields(&mut text, &object.fields);
        text.push('\n');
    }
    for call in CALLS {
        write!(text, "\n{}", method(call)).unwrap();
    }
    text + ERRORS
}

#[test]
fn interface_has_the_calls_of_the_source() {
    assert_generated(INTERFACE_FILE, &interface());
}

/// Returns a type in words.
fn type_text(kind: &FieldType) -> String {
    match kind {
        FieldType::Int => "integer".to_owned(),
        FieldType::Float => "number".to_owned(),
        FieldType::Bool => "boolean".to_owned(),
        FieldType::Text => "string".to_owned(),
        FieldType::Time => "time".to_owned(),
        FieldType::Word(words) => words.join("|"),
        FieldType::List(inner) => format!("list of {}", type_text(inner)),
        FieldType::Optional(inner) => format!("{}?", type_text(inner)),
        FieldType::Object(object) => object.name.to_owned(),
    }
}

/// Formats fields as entries: the name, the type and the meaning. `path_base64` follows each path,
/// and the section explains it once.
fn entries(fields: &[Field]) -> String {
    let mut roff = String::new();
    for field in fields.iter().filter(|field| field.name != "path_base64") {
        writeln!(
            roff,
            ".TP\n.BR {} \" ({})\"",
            field.name,
            type_text(&field.kind)
        )
        .unwrap();
        roff.push_str(&set(&paragraphs(field.about).join(" ")));
    }
    roff
}

/// Returns the reply that a command prints: the last one, or each event.
fn shown_reply(call: &CallInfo) -> FieldType {
    let mut replies = (call.replies)();
    match call.name {
        "Events" => replies.remove(0),
        _ => replies.pop().expect("a reply"),
    }
}

/// Returns the output of the commands that print a reply.
fn commands() -> String {
    let mut roff = String::new();
    let shown = CALLS.iter().filter(|call| !call.command.is_empty());
    let mut shown: Vec<&CallInfo> = shown.collect();
    while let Some(first) = shown.first().copied() {
        let reply = shown_reply(first);
        let same = shown.iter().copied().filter(|it| shown_reply(it) == reply);
        let same: Vec<&CallInfo> = same.collect();
        shown.retain(|it| same.iter().all(|known| known.name != it.name));
        let mut names: Vec<&str> = same.iter().map(|call| call.command).collect();
        names.dedup();
        writeln!(roff, ".SS \"{}\"", names.join(", ")).unwrap();
        match (fields_of(&reply), shown_events(first)) {
            (_, Some(events)) => roff.push_str(&events),
            ([], None) => roff.push_str("An empty object.\n"),
            (fields, None) => roff.push_str(&entries(fields)),
        }
    }
    roff
}

/// Returns the kinds of events with their fields.
fn shown_events(call: &CallInfo) -> Option<String> {
    if call.name != "Events" {
        return None;
    }
    let mut roff =
        String::from("One object a line: the time and the kind, and the fields of the kind.\n");
    let event = (call.replies)().remove(0);
    let common = fields_of(&event)
        .iter()
        .filter(|it| ["time", "event"].contains(&it.name));
    roff.push_str(&entries(&common.cloned().collect::<Vec<_>>()));
    for kind in EventKind::kinds() {
        let name = crate::roff::escaped(&kind.tag());
        writeln!(roff, ".TP\n.B {name}").unwrap();
        let fields = kind.fields.iter().filter(|it| it.name != "path_base64");
        let fields = fields.map(|it| {
            let mark = if matches!(it.kind, FieldType::Optional(_)) {
                "?"
            } else {
                ""
            };
            format!("`{}`{mark}", it.name)
        });
        let fields: Vec<String> = fields.collect();
        let about = paragraphs(kind.about).join(" ");
        roff.push_str(&set(&format!("{about} Fields: {}.", fields.join(", "))));
    }
    Some(roff)
}

/// Returns the objects within the output of commands.
fn objects_of_the_manual() -> String {
    let mut roff = String::new();
    let of_events = EventKind::kinds().into_iter().flat_map(|kind| kind.fields);
    let mut found = objects(CALLS);
    of_events.for_each(|field| objects_within(&field.kind, &mut found));
    for object in found.iter().filter(|object| object.name != "Name") {
        writeln!(roff, ".SS \"Object {}\"", object.name).unwrap();
        roff.push_str(&entries(&object.fields));
    }
    roff
}

/// Returns the fields and parameters that only callers of the control socket see.
fn further_fields(tables: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for call in CALLS {
        for field in (call.parameters)().into_iter().chain(reply_fields(call)) {
            let is_shown = tables.contains(&format!("\n.BR {} \"", field.name));
            if !is_shown && !names.contains(&field.name) {
                names.push(field.name);
            }
        }
    }
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    set(&format!(
        "Calls, and replies in pages and streams, have further fields: {}.",
        names.join(", ")
    ))
}

#[test]
fn manual_has_the_json_fields_of_the_source() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(path).unwrap();
    let mut tables = format!("{}{}", commands(), objects_of_the_manual());
    let further = further_fields(&tables);
    tables.push_str(SOCKET);
    tables.push_str(&further);
    let page = between(
        &page,
        ("\n.\\\" generated: fields\n", ".\\\" end of generated"),
        &format!("\n.\\\" generated: fields\n{tables}"),
    );
    assert_generated(PAGE, &page);
}
