//! The introspection of the service: `org.varlink.service`, which every Varlink service answers,
//! and the description of our own interface in Varlink's language.

use serde::Deserialize;
use serde_json::json;

use super::call::{DESCRIPTION, INTERFACE};
use super::framing::{CallMessage, encode_error, encode_reply};
use super::request::Outgoing;

/// The interface that every Varlink service has (<https://varlink.org/Service>).
const SERVICE: &str = "org.varlink.service";

/// The description of that interface.
const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// Answers a call of `org.varlink.service`; returns `None` for a call of another interface.
pub(super) fn answer(message: &CallMessage<'_>) -> Option<Vec<u8>> {
    let method = message.method.strip_prefix(SERVICE)?.strip_prefix('.')?;
    Some(match method {
        "GetInfo" => reply(&json!({
            "vendor": "p2pfs",
            "product": "p2pfs",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "https://varlink.org",
            "interfaces": [SERVICE, INTERFACE],
        })),
        "GetInterfaceDescription" => describe(message),
        _ => encode_error(
            "org.varlink.service.MethodNotFound",
            &json!({"method": message.method}),
        ),
    })
}

fn describe(message: &CallMessage<'_>) -> Vec<u8> {
    #[derive(Deserialize)]
    struct Wanted {
        interface: String,
    }
    let wanted: Option<Wanted> = serde_json::from_str(message.parameters()).ok();
    match wanted.as_ref().map(|it| &*it.interface) {
        Some(INTERFACE) => reply(&json!({"description": DESCRIPTION})),
        Some(SERVICE) => reply(&json!({"description": SERVICE_DESCRIPTION})),
        Some(other) => encode_error(
            "org.varlink.service.InterfaceNotFound",
            &json!({"interface": other}),
        ),
        None => {
            let parameter = json!({"parameter": "interface"});
            encode_error("org.varlink.service.InvalidParameter", &parameter)
        }
    }
}

fn reply(parameters: &serde_json::Value) -> Vec<u8> {
    encode_reply(
        &Outgoing {
            parameters: parameters.to_string(),
            descriptor: None,
        },
        false,
    )
}
