//! Tests of the protocol over real Unix sockets, with a fake node: the answers, and the rights of
//! callers.

mod limits;
mod server;

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::connection::{Connection, Ended, Shared};
use super::*;

const POLICY: Policy = Policy {
    owner_uid: 100,
    group_gid: Some(500),
};

fn stranger() -> Credentials {
    Credentials {
        uid: 1000,
        gids: vec![1000],
    }
}

fn owner() -> Credentials {
    Credentials {
        uid: 100,
        gids: vec![100],
    }
}

/// A connection of one caller, the calls that pass, and the reason of its end.
struct Line {
    far: UnixStream,
    requests: mpsc::Receiver<ControlRequest>,
    ended: tokio::task::JoinHandle<Ended>,
}

fn line(caller: Credentials) -> Line {
    line_in_turn(caller, Turn::unlimited())
}

fn line_in_turn(caller: Credentials, turn: Turn) -> Line {
    let (near, far) = UnixStream::pair().unwrap();
    let (sender, requests) = mpsc::channel(4);
    let shared = Arc::new(Shared {
        policy: POLICY,
        requests: sender,
    });
    let ended = tokio::spawn(Connection::new(near, caller, shared, turn).serve());
    Line {
        far,
        requests,
        ended,
    }
}

impl Line {
    async fn send(&mut self, message: &Value) {
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.far.write_all(&bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Value {
        let mut message = Vec::new();
        loop {
            match self.far.read_u8().await.unwrap() {
                0 => return serde_json::from_slice(&message).unwrap(),
                byte => message.push(byte),
            }
        }
    }

    async fn ask(&mut self, message: Value) -> Value {
        self.send(&message).await;
        self.receive().await
    }

    /// Returns the next call that passes, for the test to answer.
    async fn request(&mut self) -> ControlRequest {
        self.requests.recv().await.unwrap()
    }
}

fn method(name: &str) -> String {
    format!("{INTERFACE}.{name}")
}

#[tokio::test]
async fn a_call_reaches_the_node_and_its_reply_the_caller() {
    let mut line = line(stranger());
    line.send(&json!({"method": method("Peers")})).await;
    let request = line.request().await;
    assert_eq!((request.call, request.caller), (Call::Peers {}, stranger()));
    request.reply.done(&Peers::default());
    assert_eq!(line.receive().await, json!({"parameters": {"peers": []}}));
}

#[tokio::test]
async fn pipelined_calls_are_answered_in_order() {
    let mut line = line(owner());
    for seconds in 1..=3 {
        line.send(&json!({"method": method("Invite"), "parameters": {"lifetime_s": seconds}}))
            .await;
    }
    for seconds in 1..=3 {
        let request = line.request().await;
        assert_eq!(
            request.call,
            Call::Invite {
                lifetime_s: seconds,
                admin: false,
                name: None
            }
        );
        let token = format!("token-{seconds}");
        request.reply.done(&Invitation {
            token,
            expires: jiff::Timestamp::UNIX_EPOCH,
        });
    }
    for seconds in 1..=3 {
        let reply = line.receive().await;
        assert_eq!(reply["parameters"]["token"], format!("token-{seconds}"));
        assert_eq!(reply["parameters"]["expires"], "1970-01-01T00:00:00Z");
    }
}

#[tokio::test]
async fn a_stream_of_replies_marks_the_last() {
    let mut line = line(owner());
    line.send(&json!({"method": method("CacheVerify"), "more": true}))
        .await;
    let request = line.request().await;
    let progress = Progress {
        done_files: 1,
        total_files: 2,
        ..Progress::default()
    };
    request.reply.more(&progress).await.unwrap();
    request.reply.try_more(&progress).unwrap();
    request.reply.done(&CacheVerified::default());
    assert_eq!(line.receive().await["continues"], true);
    assert_eq!(line.receive().await["continues"], true);
    let last = line.receive().await;
    assert_eq!(
        (&last["continues"], &last["parameters"]["dropped_bytes"]),
        (&Value::Null, &json!(0))
    );
}

#[tokio::test]
async fn a_failure_has_its_kind_and_remedy() {
    let mut line = line(stranger());
    line.send(&json!({"method": method("Why"), "parameters": {"path": "nowhere"}}))
        .await;
    let failure = Failure::new(FailureKind::NotFound, "no such name").with_remedy("look: p2pfs ls");
    line.request().await.reply.fail(failure);
    let reply = line.receive().await;
    assert_eq!(reply["error"], "org.p2pfs.Control.NotFound");
    assert_eq!(reply["parameters"]["remedy"], "look: p2pfs ls");
}

#[tokio::test]
async fn a_call_dropped_by_the_node_fails_and_does_not_hang() {
    let mut line = line(stranger());
    line.send(&json!({"method": method("Status")})).await;
    drop(line.request().await);
    assert_eq!(line.receive().await["error"], "org.p2pfs.Control.Stopping");
}

#[tokio::test]
async fn a_stranger_may_read_and_is_refused_the_rest_early() {
    let mut line = line(stranger());
    for call in [
        json!({"method": method("CacheClear")}),
        json!({"method": method("Leave")}),
        json!({"method": method("Join"), "parameters": {"token": "p2pfs1-x"}}),
        json!({"method": method("ShareAdd"), "parameters": {"path": "/etc"}}),
        json!({
            "method": method("Prefetch"), "more": true, "parameters": {"paths": [{"path": "a"}]}
        }),
    ] {
        let reply = line.ask(call).await;
        assert_eq!(reply["error"], "org.varlink.service.PermissionDenied");
        assert!(!reply["parameters"]["remedy"].as_str().unwrap().is_empty());
    }
    assert!(line.requests.try_recv().is_err());
    line.send(&json!({"method": method("Status")})).await;
    assert_eq!(line.request().await.call, Call::Status {});
}

#[tokio::test]
async fn a_member_of_the_group_may_change_the_cache() {
    let mut line = line(Credentials {
        uid: 1000,
        gids: vec![7, 500],
    });
    line.send(&json!({"method": method("CacheClear")})).await;
    assert_eq!(line.request().await.call, Call::CacheClear {});
}

#[tokio::test]
async fn the_service_describes_itself_as_varlink_requires() {
    let mut line = line(stranger());
    let info = line
        .ask(json!({"method": "org.varlink.service.GetInfo"}))
        .await;
    let interfaces = json!(["org.varlink.service", INTERFACE]);
    assert_eq!(info["parameters"]["interfaces"], interfaces);
    for interface in ["org.varlink.service", INTERFACE] {
        let about = json!({"interface": interface});
        let ask = json!({
            "method": "org.varlink.service.GetInterfaceDescription", "parameters": about
        });
        let reply = line.ask(ask).await;
        let text = reply["parameters"]["description"].as_str().unwrap();
        assert!(text.contains(&format!("\ninterface {interface}\n")));
    }
    let unknown = json!({"method": "org.varlink.service.GetInterfaceDescription",
        "parameters": {"interface": "org.example"}});
    let reply = line.ask(unknown).await;
    assert_eq!(reply["error"], "org.varlink.service.InterfaceNotFound");
}

#[tokio::test]
async fn an_invalid_call_is_answered_and_the_connection_continues() {
    let mut line = line(owner());
    for (call, error) in [
        (json!({"method": "org.example.Status"}), "InterfaceNotFound"),
        (json!({"method": "nothing"}), "InterfaceNotFound"),
        (json!({"method": method("Explode")}), "MethodNotFound"),
        (
            json!({"method": "org.varlink.service.Explode"}),
            "MethodNotFound",
        ),
        (
            json!({"method": method("Invite"), "parameters": {"lifetime_s": -1}}),
            "InvalidParameter",
        ),
        (json!({"method": method("Events")}), "ExpectedMore"),
        (
            json!({"method": method("Status"), "upgrade": true}),
            "MethodNotImplemented",
        ),
    ] {
        let reply = line.ask(call.clone()).await;
        assert_eq!(
            reply["error"],
            format!("org.varlink.service.{error}"),
            "{call}"
        );
    }
    line.send(&json!({"method": method("Status")})).await;
    assert_eq!(line.request().await.call, Call::Status {});
}

#[tokio::test]
async fn a_oneway_call_is_executed_and_not_answered() {
    let mut line = line(owner());
    line.send(&json!({"method": method("Leave"), "oneway": true}))
        .await;
    line.request().await.reply.done(&Nothing {});
    line.send(&json!({"method": method("Peers")})).await;
    line.request().await.reply.done(&Peers::default());
    assert_eq!(line.receive().await["parameters"], json!({"peers": []}));
}
