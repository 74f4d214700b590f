//! Tests of `calls`.

use serde_json::json;

use super::super::call::Right;
use super::super::described::{FieldType, ObjectType};
use super::super::provenance::EventKind;
use super::*;

/// Returns a value of a type. Names are not UTF-8.
fn sample(field: &Field) -> Value {
    match (&field.kind, field.name) {
        (_, "path") => json!("caf\u{fffd}"),
        (_, "path_base64") => json!("Y2Fm6Q=="),
        (kind, _) => sample_of(kind),
    }
}

fn sample_of(kind: &FieldType) -> Value {
    match kind {
        FieldType::Int => json!(7),
        FieldType::Float => json!(1.5),
        FieldType::Bool => json!(true),
        FieldType::Text => json!("text"),
        FieldType::Time => json!("1970-01-01T00:00:00Z"),
        FieldType::Word(words) => json!(words[0]),
        FieldType::List(inner) => json!([sample_of(inner)]),
        FieldType::Optional(inner) => sample_of(inner),
        FieldType::Object(object) => {
            let fields = object.fields.iter();
            fields.map(|it| (it.name.to_owned(), sample(it))).collect()
        }
    }
}

#[test]
fn every_call_survives_its_encoding() {
    for info in CALLS {
        let method = format!("{INTERFACE}.{}", info.name);
        let fields = (info.parameters)();
        let given = fields.iter().map(|it| (it.name.to_owned(), sample(it)));
        let given: Value = given.collect::<serde_json::Map<_, _>>().into();
        let call = Call::decode(&method, &given.to_string()).unwrap();
        assert_eq!(call.encode(), (method, given));
        assert_eq!(call.info().name, info.name);
    }
}

#[test]
fn parameters_that_may_be_absent_are_marked() {
    for info in CALLS {
        let method = format!("{INTERFACE}.{}", info.name);
        let fields = (info.parameters)();
        let needed = fields
            .iter()
            .filter(|it| !matches!(it.kind, FieldType::Optional(_)));
        let given = needed.map(|it| (it.name.to_owned(), sample(it)));
        let given: Value = given.collect::<serde_json::Map<_, _>>().into();
        assert!(
            Call::decode(&method, &given.to_string()).is_ok(),
            "{method}"
        );
        for name in given.as_object().unwrap().keys() {
            let mut fewer = given.clone();
            fewer.as_object_mut().unwrap().remove(name);
            assert!(
                Call::decode(&method, &fewer.to_string()).is_err(),
                "{method} {name}"
            );
        }
    }
}

/// Returns samples of a reply: one with all fields, or one of each kind of event.
fn samples_of_reply(reply: &FieldType) -> Vec<Value> {
    let FieldType::Object(object) = reply else {
        return Vec::new();
    };
    if object.name != "Event" {
        return vec![sample_of(reply)];
    }
    let kinds = EventKind::kinds().into_iter();
    let sample_of_kind = |kind: ObjectType| {
        let tag = kind.tag();
        let mut event = sample_of(&FieldType::Object(kind));
        event["time"] = json!("1970-01-01T00:00:00Z");
        event["event"] = json!(tag);
        event
    };
    kinds.map(sample_of_kind).collect()
}

#[test]
fn each_reply_has_the_fields_of_its_description_and_no_others() {
    for (call, round_trips) in CALLS.iter().zip(ROUND_TRIPS) {
        for (reply, round_trip) in (call.replies)().iter().zip(*round_trips) {
            for sample in samples_of_reply(reply) {
                assert_eq!(round_trip(sample.clone()), sample, "{}", call.name);
            }
        }
    }
}

#[test]
fn changing_trust_or_shares_needs_the_owner_and_the_cache_the_group() {
    let (path, dir) = (Named::new("a"), Named::new("/"));
    let token = String::new();
    for (call, right) in [
        (Call::Status {}, Right::Read),
        (Call::Get { path }, Right::Read),
        (Call::CacheClear {}, Right::Cache),
        (Call::Join { token }, Right::Own),
        (Call::Leave {}, Right::Own),
        (Call::ShareRemove { dir }, Right::Own),
    ] {
        assert_eq!(call.info().right, right, "{call:?}");
    }
}

#[test]
fn an_unknown_method_is_distinguished_from_bad_parameters() {
    let unknown = Call::decode("org.example.Status", "{}");
    assert!(matches!(unknown, Err(CallError::UnknownInterface { .. })));
    let unknown = Call::decode("org.p2pfs.Control.Explode", "{}");
    assert!(matches!(unknown, Err(CallError::UnknownMethod { .. })));
    let bad = Call::decode("org.p2pfs.Control.Invite", "{}");
    assert!(matches!(bad, Err(CallError::BadParameters { .. })));
    assert!(matches!(
        Call::decode("org.p2pfs.Control.Wait", r#"{"timeout_ms": "soon"}"#),
        Err(CallError::BadParameters { .. })
    ));
}

#[test]
fn a_call_with_too_many_paths_is_refused() {
    let paths = vec![json!({"path": "a"}); super::super::PATHS_MAX + 1];
    let bad = json!({"paths": paths}).to_string();
    assert!(Call::decode("org.p2pfs.Control.Pin", &bad).is_err());
    assert!(Call::decode("org.p2pfs.Control.Pin", r#"{"paths": []}"#).is_err());
}
