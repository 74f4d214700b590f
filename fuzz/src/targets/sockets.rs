//! Messages of local users on the control socket, and configuration files of administrators.

use p2pfs::daemon::config::{Environment, Overrides, Place, Sources, load};
use p2pfs::daemon::control::Call;
use serde_json::{Map, Value};

use super::disk::scratch;

/// Decodes a call in JSON: its method and its parameters.
pub fn calls(bytes: &[u8]) {
    let Ok(Value::Object(mut message)) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let Some(Value::String(method)) = message.remove("method") else {
        return;
    };
    let parameters = match message.remove("parameters") {
        Some(Value::Object(parameters)) => parameters,
        _ => Map::new(),
    };
    let parameters = Value::Object(parameters).to_string();
    let Ok(call) = Call::decode(&method, &parameters) else {
        return;
    };
    let (method, parameters) = call.encode();
    assert!(parameters.is_object());
    let again = Call::decode(&method, &parameters.to_string()).expect("what was read can be said");
    assert_eq!(again.encode(), call.encode());
    let _policy = call.info();
}

/// Loads a configuration file.
pub fn configuration(bytes: &[u8]) {
    let file = scratch().join("p2pfs.toml");
    std::fs::write(&file, bytes).expect("a file of our own");
    let sources = Sources {
        config_file: Some(file),
        environment: Environment::default(),
        overrides: Overrides::default(),
        place: Place::system("lab.example.org"),
    };
    match load(&sources) {
        Ok(loaded) => assert!(!loaded.shown.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
