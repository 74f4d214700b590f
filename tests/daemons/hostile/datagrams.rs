//! Gossip that a member sends in the name of others.

use p2pfs_proto::wire::native::udp::{
    Contact, DatagramFrame, Departure, Farewell, Rumor, departure_bytes,
};
use p2pfs_types::id::Generation;

use super::*;
use crate::support::process::HANG_LIMIT;

#[apply(promise)]
fn a_departure_forged_on_the_wire_removes_no_node_and_names_the_forger() {
    let mut scene = scene();
    let (one, two) = (scene.one.address, scene.two.address);
    eventually("she knows whom to put out", HANG_LIMIT, || {
        scene.eve.member_at(two).is_some()
    });
    let victim = scene.eve.member_at(two).unwrap();
    for generation in [victim.generation, Generation(u64::MAX)] {
        let who = Contact {
            node: victim.node,
            address: victim.address,
            generation,
        };
        let how = Farewell::Final;
        let signature = scene.eve.sign_bytes(&departure_bytes(&who, how));
        let rumor = Rumor::Departure(Departure {
            who,
            how,
            signature,
        });
        scene.eve.gossip(one, DatagramFrame::Rumors(vec![rumor]));
    }
    let how = "what they did not sign";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    let state = &peer(&scene.one, &victim.node.to_string())["state"];
    assert_eq!(state, "alive", "who was said to have left is there");
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn datagrams_sealed_as_another_node_do_not_separate_two_nodes() {
    let mut scene = scene();
    let (one, two) = (scene.one.address, scene.two.address);
    let nothing = || DatagramFrame::Rumors(Vec::new());
    eventually("she has heard both", HANG_LIMIT, || {
        scene.eve.forge(one, two, 0, nothing()) && scene.eve.forge(two, one, 0, nothing())
    });
    let dropped = |scene: &Scene| {
        let status = scene.one.cli(&["status", "--json"]).expect_json();
        status["dropped"]["datagrams"].as_u64().unwrap()
    };
    let before = dropped(&scene);
    for counter in [1 << 20, 1 << 40, u64::MAX - 1] {
        assert!(scene.eve.forge(one, two, counter, nothing()));
        assert!(scene.eve.forge(two, one, counter, nothing()));
    }
    eventually("each is dropped", HANG_LIMIT, || {
        dropped(&scene) >= before + 3
    });
    // Each node still gets the other's statements by gossip.
    for _ in 0..3 {
        scene.assert_unharmed();
    }
    let victim = scene.eve.who_is_at(two).to_string();
    let victim = peer(&scene.one, &victim);
    assert_eq!(
        (&victim["state"], &victim["offences"]),
        (&"alive".into(), &0.into())
    );
}
