//! The fields that the interface's description and the manual name are those that the types have,
//! all of them and no more.

use std::collections::{BTreeMap, BTreeSet};

use p2pfs::daemon::control::{
    Admitted, CacheCleared, CacheListing, CacheUsage, CacheVerified, Checkup, DESCRIPTION, Event,
    Expelled, GetDone, GetStarted, Invitation, Joined, Limits, Listing, MeshInfo, Mine, Nothing,
    Peers, Pong, Progress, Provenance, Rotated, Said, SendDone, SendProgress, Settings, Shares,
    Status, Top, Touched, Trust,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The sources of the types that replies are made of.
const SOURCES: [&str; 8] = [
    include_str!("../../src/daemon/control/types.rs"),
    include_str!("../../src/daemon/control/shares.rs"),
    include_str!("../../src/daemon/control/names.rs"),
    include_str!("../../src/daemon/control/top.rs"),
    include_str!("../../src/daemon/control/provenance.rs"),
    include_str!("../../src/daemon/control/health.rs"),
    include_str!("../../src/daemon/control/giving.rs"),
    include_str!("../../src/daemon/control/membership.rs"),
];

type Fields = Vec<(String, String)>;

/// The description's types, and what its methods reply.
struct Interface {
    types: BTreeMap<String, Fields>,
    replies: BTreeMap<String, Fields>,
}

impl Interface {
    fn read() -> Self {
        let text: String = DESCRIPTION
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| [line, " "])
            .collect();
        let (mut types, mut replies) = (BTreeMap::new(), BTreeMap::new());
        for part in text.split(" type ").skip(1) {
            let (name, rest) = part.split_once('(').unwrap();
            types.insert(name.trim().to_owned(), fields(&bracketed(rest)));
        }
        for part in text.split("method ").skip(1) {
            let (name, rest) = part.split_once('(').unwrap();
            let (_, reply) = rest.split_once("->").unwrap();
            let reply = reply.trim_start().trim_start_matches('(');
            replies.insert(name.to_owned(), fields(&bracketed(reply)));
        }
        Self { types, replies }
    }

    /// A value that has every field of these.
    fn sample(&self, fields: &Fields) -> Map<String, Value> {
        let value = |(name, kind): &(String, String)| (name.clone(), self.value(name, kind));
        fields.iter().map(value).collect()
    }

    fn value(&self, name: &str, kind: &str) -> Value {
        let kind = kind.trim_start_matches('?');
        if let Some(item) = kind.strip_prefix("[]") {
            return json!([self.value(name, item)]);
        }
        if let Some(words) = kind.strip_prefix('(') {
            return json!(
                words
                    .trim_end_matches(')')
                    .split(',')
                    .next()
                    .unwrap()
                    .trim()
            );
        }
        match (kind, name) {
            ("int", _) => json!(7),
            ("float", _) => json!(1.5),
            ("bool", _) => json!(true),
            ("string", "path") => json!("caf\u{fffd}"),
            ("string", "path_base64") => json!("Y2Fm6Q=="),
            ("string", "time" | "started" | "modified" | "version_time" | "expires") => {
                json!("1970-01-01T00:00:00Z")
            }
            ("string", "last_used" | "last_heard" | "since" | "until") => {
                json!("1970-01-01T00:00:00Z")
            }
            ("string", _) => json!("text"),
            (named, _) => {
                let fields = self
                    .types
                    .get(named)
                    .unwrap_or_else(|| panic!("no type {named}"));
                Value::Object(self.sample(fields))
            }
        }
    }
}

/// The text up to the bracket that closes what is open.
fn bracketed(text: &str) -> String {
    let mut open = 1;
    let inner = text.chars().take_while(|letter| {
        open += match letter {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        open > 0
    });
    inner.collect()
}

fn fields(text: &str) -> Fields {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once(':') {
        let after = after.trim_start();
        let open = after.find('(').unwrap_or(usize::MAX);
        let comma = after.find(',').unwrap_or(after.len());
        let end = if open < comma {
            open + 1 + bracketed(&after[open + 1..]).len() + 1
        } else {
            comma
        };
        found.push((name.trim().to_owned(), after[..end].trim().to_owned()));
        rest = after[end..]
            .trim_start()
            .trim_start_matches(',')
            .trim_start();
    }
    found
}

/// What of a sample a type keeps, and what it adds.
fn through<T: DeserializeOwned + Serialize>(sample: &Map<String, Value>) -> Value {
    let value: T = serde_json::from_value(Value::Object(sample.clone()))
        .unwrap_or_else(|e| panic!("{}: {e}: {sample:?}", std::any::type_name::<T>()));
    serde_json::to_value(value).unwrap()
}

/// What the replies of a method make of a sample of all that is described.
fn replies(method: &str, sample: &Map<String, Value>) -> Vec<Value> {
    let one = match method {
        "Status" => through::<Status>(sample),
        "Peers" => through::<Peers>(sample),
        "Ping" => through::<Pong>(sample),
        "Doctor" => through::<Checkup>(sample),
        "Settings" => through::<Settings>(sample),
        "Limits" | "SetLimits" => through::<Limits>(sample),
        "Top" => through::<Top>(sample),
        "Ls" => through::<Listing>(sample),
        "Get" => return vec![through::<GetStarted>(sample), through::<GetDone>(sample)],
        "Mesh" => through::<MeshInfo>(sample),
        "Say" => through::<Said>(sample),
        "Send" => return vec![through::<SendProgress>(sample), through::<SendDone>(sample)],
        "Why" => through::<Provenance>(sample),
        "Events" => return events(sample),
        "Shares" | "ShareAdd" | "ShareRemove" => through::<Shares>(sample),
        "Mine" => through::<Mine>(sample),
        "Invite" => through::<Invitation>(sample),
        "Join" => through::<Joined>(sample),
        "Wait" | "Leave" | "Forget" | "Own" => through::<Nothing>(sample),
        "Admitted" => through::<Admitted>(sample),
        "Expel" => through::<Expelled>(sample),
        "Rotate" => through::<Rotated>(sample),
        "Trust" => through::<Trust>(sample),
        "CacheLs" => through::<CacheListing>(sample),
        "CacheClear" => through::<CacheCleared>(sample),
        "CacheVerify" => {
            return vec![
                through::<Progress>(sample),
                through::<CacheVerified>(sample),
            ];
        }
        "CacheResize" => through::<CacheUsage>(sample),
        "Pin" | "Unpin" => through::<Touched>(sample),
        "Prefetch" => return vec![through::<Progress>(sample), through::<Touched>(sample)],
        other => panic!("say here which type {other} replies with"),
    };
    vec![one]
}

fn events(sample: &Map<String, Value>) -> Vec<Value> {
    let told = kinds_of_event().into_iter().map(|event| {
        let mut sample = sample.clone();
        sample.insert("event".to_owned(), json!(event));
        through::<Event>(&sample)
    });
    told.collect()
}

/// Every kind that there is: the type names them all to whoever asks for another.
fn kinds_of_event() -> Vec<String> {
    let another = json!({ "event": "", "time": "1970-01-01T00:00:00Z" });
    let refused = serde_json::from_value::<Event>(another).unwrap_err();
    let refused = refused.to_string();
    let (_, kinds) = refused.split_once("expected one of ").unwrap();
    let quoted = kinds.split('`').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

/// Every field, each with the way to it.
fn ways(value: &Value, way: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let way = format!("{way}.{name}");
                ways(inner, &way, found);
                found.insert(way);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| ways(item, way, found)),
        _ => {}
    }
}

#[test]
fn each_reply_has_the_fields_that_its_description_names_and_no_others() {
    let interface = Interface::read();
    let described = DESCRIPTION.matches("\nmethod ").count();
    assert_eq!(interface.replies.len(), described);
    for (method, fields) in &interface.replies {
        let sample = interface.sample(fields);
        let (mut described, mut had) = (BTreeSet::new(), BTreeSet::new());
        ways(&Value::Object(sample.clone()), method, &mut described);
        for reply in replies(method, &sample) {
            ways(&reply, method, &mut had);
        }
        let lacking: Vec<_> = described.difference(&had).collect();
        let surplus: Vec<_> = had.difference(&described).collect();
        assert!(lacking.is_empty(), "described and not there: {lacking:?}");
        assert!(surplus.is_empty(), "there and not described: {surplus:?}");
    }
}

/// The names that the fields of the structs in a source have in JSON.
fn fields_in(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut is_flat = false;
    for line in source.lines().map(str::trim) {
        is_flat |= line.starts_with("#[serde(flatten");
        let Some((name, _)) = line
            .strip_prefix("pub ")
            .and_then(|rest| rest.split_once(':'))
        else {
            continue;
        };
        if !is_flat && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            found.insert(name.to_owned());
        }
        is_flat = false;
    }
    found
}

#[test]
fn each_field_of_a_type_is_in_the_description_and_in_the_manual() {
    let manual = include_str!("../../man/p2pfs.1").replace("\\-", "-");
    let (_, section) = manual.split_once("\n.SH JSON OUTPUT\n").unwrap();
    let (manual, _) = section.split_once("\n.SH ").unwrap();
    let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let words = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !is_letter(c))
            .map(str::to_owned)
            .collect()
    };
    let (described, explained) = (words(DESCRIPTION), words(manual));
    let fields: BTreeSet<String> = SOURCES.into_iter().flat_map(fields_in).collect();
    assert!(fields.len() > 100, "{fields:?}");
    for field in fields {
        assert!(
            described.contains(&field),
            "{field} is not in the description"
        );
        assert!(explained.contains(&field), "{field} is not in p2pfs(1)");
    }
}
