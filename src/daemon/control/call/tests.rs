//! Tests of `call`.

use serde_json::json;

use super::*;

fn name(text: &str) -> Named {
    Named::new(text)
}

fn every_call() -> Vec<Call> {
    let mut calls = calls_about_the_namespace();
    calls.extend(calls_about_nodes_and_the_cache());
    calls
}

fn calls_about_the_namespace() -> Vec<Call> {
    vec![
        Call::Status {},
        Call::Peers {},
        Call::Ping {
            peer: "lab-2".to_owned(),
        },
        Call::Doctor {},
        Call::Settings {},
        Call::Limits {},
        Call::SetLimits {
            up_bytes_per_s: Some(1 << 20),
            down_bytes_per_s: None,
            metered: Some(true),
        },
        Call::Top {},
        Call::Ls {
            path: name("d"),
            after: Some(name("d/x")),
        },
        Call::Get {
            path: Named::new(b"caf\xe9".to_vec()),
        },
        Call::Wait {
            mounted: true,
            peers: 2,
            file: Some(name("f")),
            timeout_ms: 5,
        },
        Call::Why { path: name("f") },
        Call::Events { follow: true },
        Call::Send {
            name: Named::new(b"\xff".to_vec()),
            to: vec!["lab".to_owned()],
        },
        Call::Say {
            text: "hi".to_owned(),
        },
        Call::Mesh {
            connect: Some("10.0.0.2:18001".to_owned()),
            discover: true,
        },
        Call::Shares {},
        Call::Mine { after: Some(7) },
        Call::ShareAdd {
            dir: name("/s"),
            how: ShareChange {
                include_private: Some(true),
                legacy: None,
                readers: None,
                exclude: Some(vec!["*.log".to_owned()]),
                no_default_excludes: Some(false),
            },
        },
        Call::ShareRemove { dir: name("/s") },
    ]
}

fn calls_about_nodes_and_the_cache() -> Vec<Call> {
    let paths = vec![name("a"), Named::new(b"\xff".to_vec())];
    vec![
        Call::Invite {
            lifetime_s: 3600,
            admin: true,
            name: Some("desk".parse().unwrap()),
        },
        Call::Admitted {
            peer: "a".to_owned(),
        },
        Call::Expel {
            peer: "a".to_owned(),
            with_admitted: true,
        },
        Call::Own {
            path: name("docs"),
            peer: Some("a".to_owned()),
        },
        Call::Rotate {},
        Call::Trust {},
        Call::Forget {
            peer: "a".to_owned(),
        },
        Call::Join {
            token: "p2pfs1-x".to_owned(),
        },
        Call::Leave {},
        Call::CacheLs { after: None },
        Call::CacheClear {},
        Call::CacheVerify {},
        Call::CacheResize { budget_bytes: 1 },
        Call::Pin {
            paths: paths.clone(),
        },
        Call::Unpin {
            paths: paths.clone(),
        },
        Call::Prefetch {
            paths,
            anyway: true,
        },
    ]
}

#[test]
fn every_call_survives_its_encoding_and_is_a_method() {
    for call in every_call() {
        let (method, parameters) = call.encode();
        assert_eq!(Call::decode(&method, &parameters.to_string()), Ok(call));
    }
    let described = DESCRIPTION.matches("\nmethod ").count();
    assert_eq!(every_call().len(), described);
}

#[test]
fn changing_trust_or_shares_asks_for_the_owner_and_the_cache_for_the_group() {
    assert_eq!(Call::Status {}.right(), Right::Read);
    assert_eq!(Call::Get { path: name("a") }.right(), Right::Read);
    assert_eq!(Call::CacheClear {}.right(), Right::Cache);
    assert_eq!(
        Call::Join {
            token: String::new()
        }
        .right(),
        Right::Own
    );
    assert_eq!(Call::Leave {}.right(), Right::Own);
    assert_eq!(Call::ShareRemove { dir: name("/") }.right(), Right::Own);
}

#[test]
fn an_unknown_method_or_interface_is_told_apart_from_bad_parameters() {
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
