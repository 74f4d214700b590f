//! Messages on the wire: JSON objects, each ended by a NUL byte
//! (<https://varlink.org/Method-Call>).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::call::{Call, CallError};
use super::failure::{Failure, FailureKind, FailureParameters};
use super::request::Outgoing;

/// The longest call in bytes, its NUL included. Some thousand paths of an ordinary length fit, and
/// 32 of `PATH_MAX` bytes, even where each byte is escaped (6 bytes) and the path written in base64
/// besides.
pub const CALL_MAX_BYTES: usize = 1 << 20;
/// The longest reply in bytes that a client takes: a page of entries with the longest names.
pub const REPLY_MAX_BYTES: usize = 64 << 20;

/// A call as it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CallMessage {
    pub(super) method: String,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(super) parameters: Map<String, Value>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) more: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) oneway: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) upgrade: bool,
}

/// A reply as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct ReplyMessage {
    #[serde(default)]
    pub(super) parameters: Map<String, Value>,
    #[serde(default)]
    pub(super) continues: bool,
    #[serde(default)]
    pub(super) error: Option<String>,
}

/// The bytes of a call.
pub(super) fn encode_call(call: &Call) -> Vec<u8> {
    let (method, parameters) = call.encode();
    let parameters = match parameters {
        Value::Object(parameters) => parameters,
        _ => Map::new(),
    };
    let more = call.needs_more();
    let message = CallMessage {
        method,
        parameters,
        more,
        oneway: false,
        upgrade: false,
    };
    // text keys and plain values always have a JSON form
    let mut bytes = serde_json::to_vec(&message).unwrap_or_default();
    bytes.push(0);
    bytes
}

/// The bytes of a reply.
pub(super) fn encode_reply(reply: &Outgoing, continues: bool) -> Vec<u8> {
    let continues = if continues { ",\"continues\":true" } else { "" };
    format!("{{\"parameters\":{}{continues}}}\0", reply.parameters).into_bytes()
}

/// The bytes of a failed call.
pub(super) fn encode_failure(failure: &Failure) -> Vec<u8> {
    let message = failure.message.clone();
    let parameters = FailureParameters {
        message,
        remedy: failure.remedy.clone(),
    };
    encode_error(failure.kind.error_name(), &parameters)
}

/// The bytes of any Varlink error.
pub(super) fn encode_error(name: &str, parameters: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct ErrorMessage<'a, P> {
        error: &'a str,
        parameters: &'a P,
    }
    let mut bytes = serde_json::to_vec(&ErrorMessage {
        error: name,
        parameters,
    })
    .unwrap_or_default();
    bytes.push(0);
    bytes
}

/// The bytes of the error that a message deserves which is no call of ours.
pub(super) fn encode_call_error(error: &CallError, message: &CallMessage) -> Vec<u8> {
    let interface = || {
        message
            .method
            .rsplit_once('.')
            .map_or("", |(interface, _)| interface)
    };
    match error {
        CallError::UnknownInterface { .. } => encode_error(
            "org.varlink.service.InterfaceNotFound",
            &serde_json::json!({"interface": interface()}),
        ),
        CallError::UnknownMethod { method } => encode_error(
            "org.varlink.service.MethodNotFound",
            &serde_json::json!({"method": method}),
        ),
        CallError::BadParameters { why } => {
            encode_failure(&Failure::new(FailureKind::Invalid, why.clone()))
        }
    }
}

/// Bytes that have come in, and the messages that end in them.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Up to where there is no NUL.
    searched: usize,
}

impl Inbox {
    /// Where the socket reads into.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// How many bytes wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the next whole message, without its NUL.
    pub(super) fn next_message(&mut self) -> Option<Vec<u8>> {
        let found = self.bytes[self.searched..]
            .iter()
            .position(|byte| *byte == 0);
        let Some(end) = found.map(|at| self.searched + at) else {
            self.searched = self.bytes.len();
            return None;
        };
        let rest = self.bytes.split_off(end + 1);
        let mut message = std::mem::replace(&mut self.bytes, rest);
        message.pop();
        self.searched = 0;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::control::Named;

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let stream = b"{\"a\":1}\0{}\0\0{\"b\":2}\0{\"rest";
        for piece in 1..stream.len() {
            let mut inbox = Inbox::default();
            let mut messages = Vec::new();
            for part in stream.chunks(piece) {
                inbox.bytes_mut().extend_from_slice(part);
                messages.extend(std::iter::from_fn(|| inbox.next_message()));
            }
            assert_eq!(messages, [&b"{\"a\":1}"[..], b"{}", b"", b"{\"b\":2}"]);
            assert_eq!(inbox.waiting_bytes(), 6);
        }
    }

    #[test]
    fn a_call_reads_back_from_its_bytes() {
        let call = Call::Get {
            path: Named::new(b"\0\xff".to_vec()),
        };
        let bytes = encode_call(&call);
        assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 1);
        let message: CallMessage = serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap();
        assert!(message.more);
        assert_eq!(Call::decode(&message.method, message.parameters), Ok(call));
    }
}
