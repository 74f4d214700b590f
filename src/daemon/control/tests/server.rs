//! Tests of the server and the client together, on a socket in the filesystem.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use super::super::*;
use super::method;

/// Binds a server, with `answer` as the handler of its requests. Returns its directory and socket.
fn served(
    answer: impl Fn(ControlRequest) + Send + 'static,
) -> (tempfile::TempDir, Vec<std::path::PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/p2pfs/control.sock");
    let server = ControlServer::bind(&path, Policy::of_this_process(), 64).unwrap();
    let (sender, mut requests) = mpsc::channel(4);
    tokio::spawn(server.serve(sender));
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            answer(request);
        }
    });
    (dir, vec![path])
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn the_client_receives_the_nodes_answer() {
    let (_dir, sockets) = served(|request| match request.call {
        Call::Peers {} => request.reply.done(&Peers::default()),
        _ => request
            .reply
            .fail(Failure::new(FailureKind::TimedOut, "not in time")),
    });
    blocking(move || {
        let mut client = Client::connect(&sockets).unwrap();
        assert_eq!(
            client.call::<Peers>(&Call::Peers {}).unwrap(),
            Peers::default()
        );
        let wait = Call::Wait {
            mounted: true,
            peers: 0,
            file: None,
            timeout_ms: 1,
        };
        let refused = client.call::<Nothing>(&wait).unwrap_err();
        assert!(matches!(refused, ClientError::Refused(f) if f.kind == FailureKind::TimedOut));
        assert_eq!(
            client.call::<Peers>(&Call::Peers {}).unwrap(),
            Peers::default()
        );
    })
    .await;
}

#[tokio::test]
async fn a_slow_answer_is_awaited_while_the_daemon_is_there() {
    let held = parking_lot::Mutex::new(None);
    let (_dir, sockets) = served(move |request| match request.call {
        Call::Peers {} => *held.lock() = Some(request.reply),
        // The client checks whether the daemon is alive.
        _ => {
            request.reply.done(&Limits::default());
            let reply: Option<ReplySink> = held.lock().take();
            reply.unwrap().done(&Peers::default());
        }
    });
    blocking(move || {
        let mut client = Client::connect(&sockets).unwrap();
        client.set_patience(None).unwrap();
        let answer = client.call::<Peers>(&Call::Peers {});
        assert_eq!(answer.unwrap(), Peers::default());
    })
    .await;
}

#[tokio::test]
async fn a_file_is_read_through_a_descriptor_in_full_length() {
    const SIZE_BYTES: usize = 8 << 20;
    let (_dir, sockets) = served(|request| {
        tokio::spawn(async move {
            let (read, mut write) = std::io::pipe().unwrap();
            let size_bytes = SIZE_BYTES as u64;
            let started = GetStarted {
                hash: "h".into(),
                size_bytes,
                cached_bytes: 0,
                executable: true,
            };
            request
                .reply
                .more_with(&started, read.into())
                .await
                .unwrap();
            blocking(move || write.write_all(&vec![7; SIZE_BYTES]).unwrap()).await;
            request.reply.done(&GetDone::default());
        });
    });
    blocking(move || {
        let mut client = Client::connect(&sockets).unwrap();
        client
            .start(&Call::Get {
                path: Named::new("f"),
            })
            .unwrap();
        let mut first = client.next_reply().unwrap();
        assert!(first.continues);
        assert_eq!(
            first.decode::<GetStarted>().unwrap().size_bytes,
            SIZE_BYTES as u64
        );
        let mut content = Vec::new();
        let descriptor = first.descriptor.take().unwrap();
        std::fs::File::from(descriptor)
            .read_to_end(&mut content)
            .unwrap();
        assert!(content.len() == SIZE_BYTES && content.iter().all(|byte| *byte == 7));
        assert_eq!(
            client.next_reply().unwrap().decode::<GetDone>().unwrap(),
            GetDone::default()
        );
    })
    .await;
}

#[tokio::test]
async fn a_writable_descriptor_never_leaves_the_daemon() {
    let (_dir, sockets) = served(|request| {
        tokio::spawn(async move {
            let writable = tempfile::tempfile().unwrap();
            let nothing = Nothing {};
            request
                .reply
                .more_with(&nothing, writable.into())
                .await
                .unwrap();
        });
    });
    blocking(move || {
        let mut client = Client::connect(&sockets).unwrap();
        client
            .start(&Call::Get {
                path: Named::new("f"),
            })
            .unwrap();
        assert!(matches!(client.next_reply(), Err(ClientError::Refused(_))));
    })
    .await;
}

#[tokio::test]
async fn the_socket_is_open_to_all_in_an_accessible_directory() {
    let (_dir, sockets) = served(drop);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&sockets[0]), 0o666);
    assert_eq!(mode(sockets[0].parent().unwrap()) & 0o755, 0o755);
}

/// Connects a caller that sends a call and closes the connection.
fn give_up(path: &std::path::Path, call: &serde_json::Value) {
    let mut caller = std::os::unix::net::UnixStream::connect(path).unwrap();
    caller.write_all(format!("{call}\0").as_bytes()).unwrap();
}

#[tokio::test]
async fn calls_given_up_before_the_daemon_accepts_take_no_slot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = ControlServer::bind(&path, Policy::of_this_process(), 4).unwrap();
    for _ in 0..16 {
        give_up(&path, &json!({"method": method("Status")}));
    }
    let mut client = Client::connect(std::slice::from_ref(&path)).unwrap();
    client.start(&Call::Peers {}).unwrap();
    let (sender, mut requests) = mpsc::channel(64);
    tokio::spawn(server.serve(sender));
    let reply = blocking(move || client.next_reply().map(|reply| reply.decode::<Peers>()));
    let request = requests.recv().await.unwrap();
    assert_eq!(request.call, Call::Peers {});
    request.reply.done(&Peers::default());
    assert_eq!(reply.await.unwrap().unwrap(), Peers::default());
}

#[tokio::test]
async fn a_oneway_call_is_executed_although_its_caller_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let server = ControlServer::bind(&path, Policy::of_this_process(), 4).unwrap();
    give_up(&path, &json!({"method": method("Peers"), "oneway": true}));
    let (sender, mut requests) = mpsc::channel(1);
    tokio::spawn(server.serve(sender));
    assert_eq!(requests.recv().await.unwrap().call, Call::Peers {});
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_a_dead_ones_socket_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let bind = || ControlServer::bind(&path, Policy::of_this_process(), 4);
    let first = bind().unwrap();
    let error = bind().unwrap_err();
    assert!(matches!(&error, ControlError::InUse { .. }));
    assert!(error.to_string().contains("another daemon answers"));
    drop(first);
    assert!(!path.exists());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists() && bind().is_ok());
}

#[tokio::test]
async fn a_file_in_place_of_the_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    assert!(ControlServer::bind(&path, Policy::of_this_process(), 4).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"data");
}

#[test]
fn a_client_without_a_daemon_says_where_it_looked() {
    let sockets = ["/nonexistent/a".into(), "/nonexistent/b".into()];
    let error = Client::connect(&sockets).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no daemon answers on /nonexistent/a or /nonexistent/b"
    );
}

#[test]
fn an_impossible_socket_path_does_not_stop_the_search() {
    let dir = tempfile::tempdir().unwrap();
    let [long, file, socket] = ["s".repeat(200), "file".into(), "socket".into()];
    let sockets = [&long, &file, &socket].map(|name| dir.path().join(name));
    std::fs::write(&sockets[1], "").unwrap();
    let refused = Client::connect(&sockets[..2]).unwrap_err();
    assert!(matches!(refused, ClientError::TooLong { .. }), "{refused}");
    let _listener = std::os::unix::net::UnixListener::bind(&sockets[2]).unwrap();
    assert!(Client::connect(&sockets).is_ok());
}

#[test]
fn a_client_waits_no_longer_than_its_patience() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&[path]).unwrap();
    client.set_patience(Some(Duration::from_millis(1))).unwrap();
    assert!(matches!(
        client.call::<Nothing>(&Call::Leave {}),
        Err(ClientError::Silent)
    ));
}

/// Simulates a daemon that breaks the calls of `broken` callers and then ends. The next daemon
/// takes over its socket and answers.
fn restarting(broken: usize) -> (tempfile::TempDir, Vec<std::path::PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (runtime, at) = (tokio::runtime::Handle::current(), path.clone());
    std::thread::spawn(move || {
        for _ in 0..broken {
            let (mut caller, _) = listener.accept().unwrap();
            assert!(caller.read(&mut [0; 4096]).unwrap() > 0);
        }
        let _inside = runtime.enter();
        let policy = Policy::of_this_process();
        let server = ControlServer::adopt(listener.into(), &at, policy, 64).unwrap();
        let (sender, mut requests) = mpsc::channel::<ControlRequest>(4);
        runtime.spawn(server.serve(sender));
        runtime.spawn(async move {
            while let Some(request) = requests.recv().await {
                request.reply.done(&Peers::default());
            }
        });
    });
    (dir, vec![path])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_restarts_is_answered_by_the_next_daemon() {
    let (dir, sockets) = restarting(2);
    blocking(move || {
        let mut client = Client::connect(&sockets).unwrap();
        client.wait_for_restarts();
        let peers: Peers = client.call(&Call::Peers {}).unwrap();
        assert_eq!(peers, Peers::default());
    })
    .await;
    assert!(dir.path().join("s").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_must_not_be_repeated_is_not_and_no_wait_is_endless() {
    let (_dir, sockets) = restarting(1);
    let closed = blocking(move || {
        let mut client = Client::connect(&sockets).unwrap();
        client.wait_for_restarts();
        client.call::<Nothing>(&Call::Leave {})
    })
    .await;
    assert!(matches!(closed, Err(ClientError::Closed)), "{closed:?}");
    let (_dir, sockets) = restarting(usize::MAX);
    let closed = blocking(move || {
        let mut client = Client::connect(&sockets).unwrap();
        client.wait_for_restarts();
        client.call::<Peers>(&Call::Peers {})
    })
    .await;
    assert!(matches!(closed, Err(ClientError::Closed)), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_without_a_kept_socket_is_not_awaited_long() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        assert!(caller.read(&mut [0; 4096]).unwrap() > 0);
    });
    let begun = std::time::Instant::now();
    let asked = blocking(move || {
        let mut client = Client::connect(&[path]).unwrap();
        client.wait_for_restarts();
        client.call::<Peers>(&Call::Peers {})
    })
    .await;
    assert!(
        matches!(asked, Err(ClientError::NotRunning { .. })),
        "{asked:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn an_inherited_socket_of_another_path_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let bind = || std::os::unix::net::UnixListener::bind(&here).unwrap();
    let take_up = |path: &std::path::Path, socket: std::os::unix::net::UnixListener| {
        ControlServer::adopt(socket.into(), path, Policy::of_this_process(), 4).is_ok()
    };
    let socket = bind();
    assert!(!take_up(&there, socket.try_clone().unwrap()));
    assert!(take_up(&here, socket.try_clone().unwrap()));
    std::fs::remove_file(&here).unwrap();
    assert!(!take_up(&here, socket), "nobody can reach it");
}
