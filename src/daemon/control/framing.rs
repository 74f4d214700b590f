//! Messages on the wire: JSON objects, each ended by a NUL byte
//! (<https://varlink.org/Method-Call>).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::call::CallError;
use super::calls::Call;
use super::failure::{Failure, FailureKind, FailureParameters};
use super::request::Outgoing;

/// Maximum bytes of a call, including its NUL. This is room for some thousand paths of ordinary
/// length. It is also room for 32 paths of `PATH_MAX` bytes, even if each byte is escaped (6 bytes)
/// and the path is repeated in base64.
pub const CALL_MAX_BYTES: usize = 1 << 20;
/// Maximum bytes of a call by a caller that may only read, including its NUL. The longest such call
/// has two paths of `PATH_MAX` bytes, each escaped (6 bytes a byte) and repeated in base64.
pub const READ_CALL_MAX_BYTES: usize = 64 << 10;
/// Maximum bytes of a reply that a client accepts: a page of entries with the longest names.
pub const REPLY_MAX_BYTES: usize = 64 << 20;

/// A call for serialization.
#[derive(Debug, Serialize)]
struct WrittenCall {
    method: String,
    #[serde(skip_serializing_if = "Map::is_empty")]
    parameters: Map<String, Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

/// A call for deserialization. Its parameters stay text until the type of the call is known, so
/// that no generic value is built from a caller's JSON.
#[derive(Debug, Deserialize)]
pub(super) struct CallMessage<'a> {
    #[serde(borrow)]
    pub(super) method: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) more: bool,
    #[serde(default)]
    pub(super) oneway: bool,
    #[serde(default)]
    pub(super) upgrade: bool,
}

impl<'a> CallMessage<'a> {
    /// Parses the envelope of a call; returns `None` if the bytes are not a Varlink call.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let message: Self = serde_json::from_slice(bytes).ok()?;
        message.parameters().starts_with('{').then_some(message)
    }

    /// Returns the JSON object of the parameters.
    pub(super) fn parameters(&self) -> &'a str {
        self.parameters.map_or("{}", RawValue::get)
    }
}

/// A reply for deserialization.
#[derive(Debug, Deserialize)]
pub(super) struct ReplyMessage {
    #[serde(default)]
    pub(super) parameters: Map<String, Value>,
    #[serde(default)]
    pub(super) continues: bool,
    #[serde(default)]
    pub(super) error: Option<String>,
}

/// Encodes a call.
pub(super) fn encode_call(call: &Call) -> Vec<u8> {
    let (method, parameters) = call.encode();
    let parameters = match parameters {
        Value::Object(parameters) => parameters,
        _ => Map::new(),
    };
    let more = call.info().needs_more;
    let message = WrittenCall {
        method,
        parameters,
        more,
    };
    // Text keys and plain values always have a JSON form.
    let mut bytes = serde_json::to_vec(&message).unwrap_or_default();
    bytes.push(0);
    bytes
}

/// Encodes a reply.
pub(super) fn encode_reply(reply: &Outgoing, continues: bool) -> Vec<u8> {
    let continues = if continues { ",\"continues\":true" } else { "" };
    format!("{{\"parameters\":{}{continues}}}\0", reply.parameters).into_bytes()
}

/// Encodes the failure of a call.
pub(super) fn encode_failure(failure: &Failure) -> Vec<u8> {
    let message = failure.message.clone();
    let parameters = FailureParameters {
        message,
        remedy: failure.remedy.clone(),
    };
    encode_error(failure.kind.error_name(), &parameters)
}

/// Encodes a Varlink error.
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

/// Encodes the error for a message that is not a valid call of this interface.
pub(super) fn encode_call_error(error: &CallError, message: &CallMessage<'_>) -> Vec<u8> {
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

/// Received bytes, split into messages.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Length of the prefix that contains no NUL.
    searched: usize,
}

impl Inbox {
    /// Returns the buffer that the socket reads into.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Returns the number of buffered bytes.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Removes and returns the next complete message, without its NUL.
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
    fn messages_arrive_unchanged_in_any_segmentation() {
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
    fn a_call_round_trips() {
        let call = Call::Get {
            path: Named::new(b"\0\xff".to_vec()),
        };
        let bytes = encode_call(&call);
        assert_eq!(bytes.iter().filter(|byte| **byte == 0).count(), 1);
        let message = CallMessage::read(&bytes[..bytes.len() - 1]).unwrap();
        assert!(message.more);
        let read = Call::decode(&message.method, message.parameters());
        assert_eq!(read, Ok(call));
    }

    #[test]
    fn the_longest_call_of_a_read_only_caller_fits_its_limit() {
        let escaped = vec![1; libc::PATH_MAX as usize - 1];
        let raw = [&escaped[1..], b"\xff"].concat();
        let call = Call::Ls {
            path: Named::new(raw.clone()),
            after: Some(Named::new(raw)),
        };
        assert!(encode_call(&call).len() <= READ_CALL_MAX_BYTES);
    }
}
