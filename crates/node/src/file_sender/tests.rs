//! Pushes of files to a recipient whose answers the test chooses.

use std::collections::BTreeMap;
use std::io::Write;

use super::*;
use p2pfs_catalogue::Catalogue;
use p2pfs_proto::trust::{EpochSecret, NodeKey, TestKeyring};
use p2pfs_transfer::net::LedgerHandle;
use p2pfs_transfer::net::peer::PeerLimits;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeName;

#[tokio::test]
async fn a_file_is_offered_again_only_to_a_node_that_acknowledged_the_offer() {
    let kept_as = send_to_bob(PeerLimits::default()).await;
    assert_eq!(kept_as.as_deref(), Some(&b"a-(1)"[..]));
}

#[tokio::test]
async fn node_of_an_older_protocol_is_not_asked_for_the_name_of_the_file() {
    let older = PeerLimits {
        batches: false,
        ..PeerLimits::default()
    };
    assert_eq!(send_to_bob(older).await, None);
}

/// Sends a file to a node with these limits, which knows the file by another name. Returns the name
/// that the sender was told.
async fn send_to_bob(limits: PeerLimits) -> Option<Vec<u8>> {
    let keyring = TestKeyring::in_memory(EpochSecret::random());
    let node = |limits| {
        let key = NodeKey::random();
        let anywhere = ([127, 0, 0, 1], 0).into();
        let (ledger, _commands) = LedgerHandle::new(keyring.reader());
        let net = PeerNet::bind(anywhere, &key, ledger, limits);
        (key.node_id(), net.unwrap())
    };
    let (me, (net, _requests)) = node(PeerLimits::default());
    let (bob, (bobs, mut requests)) = node(limits);
    let mut catalogue = Catalogue::new(me, NodeName::new("me").unwrap());
    let published = Published::new(
        p2pfs_content::PublishedNames::new(catalogue.view()),
        net.local_addr(),
        vec![],
    );
    let events = EventLog::default();
    let names = Names::new(published.view.clone(), keyring.reader());
    let courier = FileSender {
        me,
        net,
        published: published.clone(),
        names,
        foreign: None,
        mailbox: Mailbox::new(events.clone()),
        events,
        sent: PeerBytes::default(),
        upload: Pace::default(),
    };
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"hello").unwrap();
    let wanted = Arc::new(());
    let parcel = Parcel::read(file, b"a".to_vec(), &Arc::downgrade(&wanted)).unwrap();
    let to = Recipient {
        name: "bob".to_owned(),
        route: Route::Native(bob),
    };
    let sending =
        tokio::spawn(async move { courier.send(&parcel, &to, &Arc::default()).await.unwrap() });
    // bob's address is not known yet, so the first offer does not reach him
    tokio::task::yield_now().await;
    published.set_addresses(BTreeMap::from([(bob, bobs.local_addr())]));
    let mut offered = Vec::new();
    while !offered.contains(&true) {
        let incoming = requests.recv().await.unwrap();
        let response = match incoming.request {
            Request::Push(Push::Offer { again, .. }) => {
                offered.push(again);
                let to_bytes = if again { 5 } else { 0 };
                Response::Taken { to_bytes }
            }
            _ => Response::NotHere,
        };
        incoming.reply.send(response);
    }
    assert_eq!(offered, [false, true]);
    let answer = async {
        loop {
            let incoming = requests.recv().await.unwrap();
            let hash = ContentHash::of(b"hello");
            assert_eq!(incoming.request, Request::Push(Push::AskKept { hash }));
            let name = Bytes::from_static(b"a-(1)");
            incoming.reply.send(Response::Kept { name });
        }
    };
    tokio::select! {
        sent = sending => sent.unwrap(),
        () = answer => unreachable!("it answers for ever"),
    }
}
