//! Limits on callers of the control socket.

use std::future::pending;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::super::connection::{Connection, Ended, Shared};
use super::super::*;
use super::{Line, POLICY, line, line_in_turn, method, owner, stranger};

#[tokio::test]
async fn garbage_ends_the_connection() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n\0"[..],
        b"\0",
        b"[]\0",
        b"{\"method\": 3}\0",
        b"\xff\xfe\0",
        b"{\"method\":\"a\",\"parameters\":[]}\0",
    ] {
        let mut line = line(stranger());
        line.far.write_all(bytes).await.unwrap();
        assert!(matches!(line.ended.await.unwrap(), Ended::NoCall));
        assert_eq!(line.far.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn endlessly_nested_json_ends_the_connection_and_not_the_daemon() {
    let mut line = line(owner());
    let deep = [
        &b"{\"method\":\"x\",\"parameters\":{\"a\":"[..],
        &b"[".repeat(400_000),
        b"\0",
    ];
    line.far.write_all(&deep.concat()).await.unwrap();
    assert!(matches!(line.ended.await.unwrap(), Ended::NoCall));
}

#[tokio::test]
async fn deeply_nested_json_in_a_call_is_refused_as_bad_parameters() {
    let mut line = line(stranger());
    let nested = ["[".repeat(20_000), "]".repeat(20_000)].concat();
    let call = format!(
        "{{\"method\":\"{}\",\"parameters\":{{\"path\":{nested}}}}}\0",
        method("Ls")
    );
    line.far.write_all(call.as_bytes()).await.unwrap();
    let reply = line.receive().await;
    assert_eq!(reply["error"], "org.varlink.service.InvalidParameter");
}

#[tokio::test]
async fn a_read_only_caller_can_send_calls_of_64_kib_and_no_longer() {
    let long = |bytes: usize| {
        let call = json!({"method": method("Pin"), "parameters": {"paths": [{"path": "a"}]}});
        let mut text = call.to_string();
        text.push_str(&" ".repeat(bytes - text.len() - 1));
        text + "\0"
    };
    let mut of_group = line(Credentials {
        uid: 1000,
        gids: vec![500],
    });
    let call = long(CALL_MAX_BYTES);
    of_group.far.write_all(call.as_bytes()).await.unwrap();
    assert!(matches!(of_group.request().await.call, Call::Pin { .. }));
    let mut other = line(stranger());
    let call = long(READ_CALL_MAX_BYTES);
    other.far.write_all(call.as_bytes()).await.unwrap();
    let reply = other.receive().await;
    assert_eq!(reply["error"], "org.varlink.service.PermissionDenied");
    let call = long(CALL_MAX_BYTES);
    // The connection may end before everything is sent.
    let _cut = other.far.write_all(call.as_bytes()).await;
    let max_bytes = READ_CALL_MAX_BYTES;
    let ended = other.ended.await.unwrap();
    assert!(matches!(ended, Ended::TooLong { max_bytes: it } if it == max_bytes));
}

#[test]
fn long_calls_are_parsed_off_the_runtimes_threads() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let builder = builder.enable_all().max_blocking_threads(1);
    let runtime = builder.build().unwrap();
    let (free, is_free) = std::sync::mpsc::channel();
    let call = |bytes: usize| {
        let mut text = json!({"method": method("Peers")}).to_string();
        text.push_str(&" ".repeat(bytes - text.len() - 1));
        text + "\0"
    };
    runtime.block_on(async {
        // The one thread for blocking work is occupied.
        let occupied = tokio::task::spawn_blocking(move || is_free.recv());
        let (mut long, mut short) = (line(stranger()), line(stranger()));
        long.far
            .write_all(call(READ_CALL_MAX_BYTES).as_bytes())
            .await
            .unwrap();
        for _ in 0..10 {
            short.far.write_all(call(1024).as_bytes()).await.unwrap();
            short.request().await.reply.done(&Peers::default());
            short.receive().await;
        }
        assert!(long.requests.try_recv().is_err());
        free.send(()).unwrap();
        occupied.await.unwrap().unwrap();
        assert_eq!(long.request().await.call, Call::Peers {});
    });
}

#[tokio::test]
async fn a_users_next_call_is_read_once_its_turn_is_free() {
    let turn = Turn::of_a_user();
    let mut line = line_in_turn(stranger(), turn.clone());
    let at_work = turn.take().await;
    line.send(&json!({"method": method("Peers")})).await;
    tokio::task::yield_now().await;
    assert!(line.requests.try_recv().is_err());
    drop(at_work);
    line.request().await.reply.done(&Peers::default());
    assert_eq!(line.receive().await, json!({"parameters": {"peers": []}}));
}

#[tokio::test]
async fn an_endless_message_is_read_to_the_limit_and_no_further() {
    let mut line = line(stranger());
    let piece = vec![b' '; 64 * 1024];
    let mut sent_bytes = 0;
    while line.far.write_all(&piece).await.is_ok() {
        sent_bytes += piece.len();
        assert!(sent_bytes <= 4 * CALL_MAX_BYTES);
    }
    assert!(matches!(line.ended.await.unwrap(), Ended::TooLong { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_silent_caller_is_disconnected() {
    let line = line(stranger());
    assert!(matches!(line.ended.await.unwrap(), Ended::Idle));
}

#[tokio::test(start_paused = true)]
async fn a_dripping_caller_is_disconnected() {
    let mut line = line(stranger());
    line.far.write_all(b"{\"method\":").await.unwrap();
    assert!(matches!(line.ended.await.unwrap(), Ended::Idle));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_read_is_disconnected_and_the_node_told() {
    let mut line = line(stranger());
    line.send(&json!({"method": method("Events"), "more": true}))
        .await;
    let request = line.request().await;
    let event = Event {
        time: jiff::Timestamp::UNIX_EPOCH,
        what: EventKind::Warning {
            condition: String::new(),
            message: "w".repeat(10_000),
        },
    };
    while request.reply.more(&event).await.is_ok() {}
    request.reply.closed().await;
    assert!(matches!(line.ended.await.unwrap(), Ended::Slow));
}

#[tokio::test(start_paused = true)]
async fn a_follower_of_events_may_take_its_time_over_each() {
    let mut line = line(stranger());
    line.send(&json!({"method": method("Events"), "more": true, "parameters": {"follow": true}}))
        .await;
    let request = line.request().await;
    let event = Event {
        time: jiff::Timestamp::UNIX_EPOCH,
        what: EventKind::Warning {
            condition: String::new(),
            message: "w".repeat(10_000),
        },
    };
    while request.reply.try_more(&event).is_ok() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(REPLY_READ_MAX * 360).await;
    assert!(!line.ended.is_finished());
    // All pending replies arrive.
    let mut rest = vec![0; PENDING_REPLIES_MAX * 10_000];
    line.far.read_exact(&mut rest).await.unwrap();
    request.reply.more(&event).await.unwrap();
}

#[tokio::test]
async fn events_for_a_caller_that_does_not_read_are_dropped_and_do_not_block_the_node() {
    let mut line = line(stranger());
    line.send(&json!({"method": method("Events"), "more": true}))
        .await;
    let request = line.request().await;
    let event = Event {
        time: jiff::Timestamp::UNIX_EPOCH,
        what: EventKind::Lost { count: 1 },
    };
    let taken = (0..=PENDING_REPLIES_MAX).filter(|_| request.reply.try_more(&event).is_ok());
    assert_eq!(taken.count(), PENDING_REPLIES_MAX);
}

#[tokio::test]
async fn the_node_learns_that_a_caller_has_left() {
    let mut line = line(stranger());
    line.send(&json!({"method": method("Events"), "more": true, "parameters": {"follow": true}}))
        .await;
    let request = line.request().await;
    drop(line.far);
    request.reply.closed().await;
    let event = Event {
        time: jiff::Timestamp::UNIX_EPOCH,
        what: EventKind::Lost { count: 1 },
    };
    assert_eq!(request.reply.try_more(&event), Err(CallerGone));
    assert!(matches!(line.ended.await.unwrap(), Ended::Closed));
}

#[tokio::test]
async fn a_caller_that_closes_its_sending_side_still_gets_its_answer() {
    let mut line = line(stranger());
    line.send(&json!({"method": method("Peers")})).await;
    line.far.shutdown().await.unwrap();
    line.request().await.reply.done(&Peers::default());
    assert_eq!(line.receive().await, json!({"parameters": {"peers": []}}));
    assert!(matches!(line.ended.await.unwrap(), Ended::Closed));
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_node_says_so() {
    let (sender, requests) = mpsc::channel(1);
    let _taken = sender.clone().reserve_owned().await.unwrap();
    let shared = Arc::new(Shared {
        policy: POLICY,
        requests: sender,
    });
    let (near, far) = UnixStream::pair().unwrap();
    let ended = tokio::spawn(Connection::new(near, stranger(), shared, Turn::of_a_user()).serve());
    let mut full = Line {
        far,
        requests,
        ended,
    };
    let reply = full.ask(json!({"method": method("Status")})).await;
    assert_eq!(reply["error"], "org.p2pfs.Control.Busy");
    assert_eq!(
        reply["parameters"]["message"],
        "the daemon has too much to do"
    );
}

#[tokio::test]
async fn a_stopping_node_says_so() {
    let mut line = line(stranger());
    line.requests.close();
    let reply = line.ask(json!({"method": method("Status")})).await;
    assert_eq!(reply["error"], "org.p2pfs.Control.Stopping");
    assert_eq!(reply["parameters"]["message"], "the daemon is stopping");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_input_makes_a_connection_panic(
        bytes in proptest::collection::vec(prop_oneof![
            Just(0_u8), Just(b'{'), Just(b'}'), Just(b'"'), any::<u8>()
        ], 0..256)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let mut line = line(owner());
            line.far.write_all(&bytes).await.unwrap();
            line.far.shutdown().await.unwrap();
            drop(line.requests);
            let mut rest = Vec::new();
            line.far.read_to_end(&mut rest).await.unwrap();
            drop(line.far);
            line.ended.await.unwrap();
        });
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_only_its_caller_awaits_ends_with_the_caller() {
    for (name, parameters) in [
        (
            "Wait",
            json!({"mounted": true, "peers": 1, "timeout_ms": 86_400_000}),
        ),
        ("Ping", json!({"peer": "b"})),
        ("Doctor", json!({})),
    ] {
        let mut line = line(stranger());
        line.send(&json!({"method": method(name), "parameters": parameters}))
            .await;
        let reply = line.request().await.reply;
        let work = tokio::spawn(async move { reply.while_heard(pending::<()>()).await });
        drop(line.far);
        assert_eq!(work.await.unwrap(), None, "{name}");
    }
}
