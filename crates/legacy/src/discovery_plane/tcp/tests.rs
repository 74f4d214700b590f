//! Tests of the TCP transfers.

use tokio::net::TcpListener;

use super::*;
use p2pfs_node::PeerBytes;
use p2pfs_transfer::Pace;

fn unlimited() -> ForeignThrottle {
    ForeignThrottle::new(&Pace::default(), &PeerBytes::default())
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// A legacy peer that sends these bytes for any request, then closes.
async fn peer_that_sends(parts: Vec<Vec<u8>>) -> SocketAddrV4 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(at) = listener.local_addr().unwrap() else {
        panic!("not IPv4");
    };
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 2048];
            let count = stream.read(&mut request).await.unwrap();
            assert!(request[..count].starts_with(b"Get,"));
            for part in &parts {
                let _gone = stream.write_all(part).await;
            }
        }
    });
    at
}

fn header(text: &str, size: u64) -> Vec<u8> {
    let header = TransferHeader::new(name(text), size).unwrap();
    header.encode().to_vec()
}

async fn fetch(at: SocketAddrV4) -> Result<Vec<u8>, CopyError> {
    let mut transfer = Transfer::begin(at, &name("a.txt"), unlimited()).await?;
    let mut all = Vec::new();
    while let Some(bytes) = transfer.next().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

#[tokio::test]
async fn a_file_of_any_segmentation_arrives_whole() {
    let at = peer_that_sends(vec![header("a.txt", 5), b"he".into(), b"llo".into()]).await;
    assert_eq!(fetch(at).await.unwrap(), b"hello");
    let at = peer_that_sends(vec![header("a.txt", 0)]).await;
    assert_eq!(fetch(at).await.unwrap(), b"");
}

#[tokio::test]
async fn an_empty_close_means_no() {
    let at = peer_that_sends(vec![]).await;
    assert!(matches!(fetch(at).await, Err(CopyError::NotThere { .. })));
}

#[tokio::test]
async fn early_end_surplus_and_invalid_headers_are_errors() {
    let at = peer_that_sends(vec![header("a.txt", 9), b"hello".into()]).await;
    let early = fetch(at).await;
    assert!(
        matches!(
            early,
            Err(CopyError::Early {
                missing_bytes: 4,
                ..
            })
        ),
        "{early:?}"
    );
    let at = peer_that_sends(vec![header("a.txt", 3), b"hello".into()]).await;
    assert!(matches!(fetch(at).await, Err(CopyError::Surplus { .. })));
    let at = peer_that_sends(vec![header("evil.txt", 5), b"hello".into()]).await;
    assert!(matches!(fetch(at).await, Err(CopyError::Header { .. })));
    let at = peer_that_sends(vec![vec![b'x'; 100]]).await;
    assert!(matches!(fetch(at).await, Err(CopyError::Header { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_slow_drip_is_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(at) = listener.local_addr().unwrap() else {
        panic!("not IPv4");
    };
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&header("a.txt", 1 << 30)).await.unwrap();
        let mut drip = tokio::time::interval(Duration::from_secs(1));
        loop {
            drip.tick().await;
            if stream.write_all(b"x").await.is_err() {
                return;
            }
        }
    });
    assert!(matches!(fetch(at).await, Err(CopyError::TooSlow { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_paused_reader_does_not_classify_its_peer_as_slow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(at) = listener.local_addr().unwrap() else {
        panic!("not IPv4");
    };
    let (back, is_back) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&header("a.txt", 2)).await.unwrap();
        stream.write_all(b"a").await.unwrap();
        is_back.await.unwrap();
        stream.write_all(b"b").await.unwrap();
    });
    let mut transfer = Transfer::begin(at, &name("a.txt"), unlimited())
        .await
        .unwrap();
    assert_eq!(transfer.next().await.unwrap().unwrap(), "a");
    tokio::time::advance(PACE * 3).await;
    back.send(()).unwrap();
    assert_eq!(transfer.next().await.unwrap().unwrap(), "b");
}

#[tokio::test]
async fn a_limit_applies_in_mid_transfer_and_all_bytes_are_counted() {
    const MIB: u64 = 1 << 20;
    let bytes = vec![7; 8 << 20];
    let at = peer_that_sends(vec![header("a.txt", 8 * MIB), bytes]).await;
    let (pace, taken) = (Pace::default(), PeerBytes::default());
    let limit = ForeignThrottle::new(&pace, &taken);
    let mut transfer = Transfer::begin(at, &name("a.txt"), limit).await.unwrap();
    while taken.total() < 4 * MIB {
        assert!(transfer.next().await.unwrap().is_some());
    }
    pace.set(Some(2 * MIB));
    let begun = Instant::now();
    while transfer.next().await.unwrap().is_some() {}
    // about two seconds at the limit, of which half a second's worth may pass at once
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert_eq!(taken.total(), 8 * MIB);
}

async fn connect() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await;
    (client.unwrap(), listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn a_request_in_parts_or_without_its_line_end_is_read() {
    for parts in [
        &[&b"Get,"[..], b"a.txt\n"][..],
        &[b"Get,a.txt"],
        &[b"Get,x/../a.txt\r\n"],
    ] {
        let (mut client, server) = connect().await;
        for part in parts {
            client.write_all(part).await.unwrap();
        }
        let mut served = Served::accept(server).await.unwrap();
        assert_eq!(served.name, name("a.txt"));
        let header = TransferHeader::new(name("a.txt"), 2).unwrap();
        served.send_header(&header).await.unwrap();
        served.send(b"ok").await.unwrap();
        let closing = tokio::spawn(served.close());
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, [&header.encode()[..], b"ok"].concat());
        drop(client);
        closing.await.unwrap();
    }
}

#[tokio::test]
async fn a_request_is_read_up_to_its_limit() {
    for (length, fits) in [
        (REQUEST_MAX_BYTES - 1, true),
        (REQUEST_MAX_BYTES, true),
        (REQUEST_MAX_BYTES + 1, false),
    ] {
        let (mut client, server) = connect().await;
        // the name is the last component of a path, and the line ends with the last byte
        let rest = "/a.txt\n";
        let path = "p".repeat(length - "Get,".len() - rest.len());
        let request = format!("Get,{path}{rest}");
        assert_eq!(request.len(), length);
        client.write_all(request.as_bytes()).await.unwrap();
        let served = Served::accept(server).await;
        assert_eq!(
            served.map(|served| served.name),
            fits.then(|| name("a.txt")),
            "{length}"
        );
    }
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    for bad in [&b"GET / HTTP/1.1\r\n"[..], b"Get,\n", b"\n"] {
        let (mut client, server) = connect().await;
        client.write_all(bad).await.unwrap();
        assert!(Served::accept(server).await.is_none());
    }
    let (client, server) = connect().await;
    drop(client);
    assert!(Served::accept(server).await.is_none());
}

#[test]
fn connections_are_bounded_for_each_address_and_in_total() {
    let door = Admission::default();
    let ip = |n: usize| IpAddr::from([10, 0, 0, n as u8]);
    let mut places = Vec::new();
    for n in 0..10 {
        places.extend((0..SERVED_PER_ADDRESS + 1).filter_map(|_| door.enter(ip(n))));
    }
    assert_eq!(places.len(), SERVED_MAX);
    places.clear();
    assert!(door.served.lock().is_empty(), "nobody is remembered");
    assert!(door.enter(ip(0)).is_some());
}
