//! Reads over a slow link.

use super::*;

/// Starts a proxy of a node that carries `rate` bytes per second from it on each connection.
async fn narrow_way(to: SocketAddr, rate: usize) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((mut near_in, mut near_out), (far_in, mut far_out)) =
                (near.into_split(), far.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut near_in, &mut far_out).await });
            tokio::spawn(async move {
                let mut each = tokio::time::interval(Duration::from_millis(20));
                loop {
                    each.tick().await;
                    let mut part = vec![0; rate / 50];
                    far_in.readable().await.unwrap();
                    match far_in.try_read(&mut part) {
                        Ok(0) => return,
                        Ok(length) => near_out.write_all(&part[..length]).await.unwrap(),
                        Err(_) => {}
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_continues_while_bytes_arrive_however_slowly() {
    let content = Content::new(21, 1 << 20);
    let cluster = Cluster::new();
    let serving = cluster.serving(&[&content], honest);
    let address = narrow_way(serving.address, 24_000).await;
    let node = serving.id;
    let cache = TestCache::new(1 << 30);
    let size_bytes = content.size();
    let holder = Holder {
        node,
        address,
        size_bytes,
        sequence: 1,
    };
    let (fetcher, _events) = cluster.fetching(&cache, vec![holder]);
    let (reader, copy) = (fetcher.clone(), content.clone());
    blocking(move || {
        // opens the connection
        let last = ByteRange::at(size_bytes - 4096, 4096);
        assert_eq!(read_now(&reader, &copy, last).unwrap(), copy.part(last));
        // each answer takes longer than the reader's patience
        let range = ByteRange::new(0, 128 << 10);
        let (reply, outcome) = crate::tests::reply();
        let deadline = Instant::now() + Duration::from_secs(2);
        let wait = reader.read(Read::new(copy.key(), range, deadline, reply));
        let bytes = outcome.recv_timeout(LONG).unwrap().unwrap();
        assert_eq!(bytes, copy.part(range));
        assert!(Instant::now() > deadline, "the way was not narrow");
        assert_eq!(wait.until(), None);
    })
    .await;
    assert_eq!(fetcher.peers()[0].failures, 0);
}
