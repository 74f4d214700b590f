//! One hash with several claimed sizes: the right size is proven, and a node that claims another
//! lied.

use std::time::Duration;

use p2pfs_fetch::TransferError;
use p2pfs_fetch::plan::PlanError;
use p2pfs_types::digest::ContentKey;

use crate::support::seeds::each_seed;
use crate::swarm::node::Manner;
use crate::swarm::world::{Deed, World, node_id};

const MIB: u64 = 1 << 20;
const LAN: f64 = 100e6;

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// Returns an honest holder, a node that claims another size, and a reader.
fn disputed(seed: u64) -> (World, ContentKey, ContentKey) {
    let mut world = World::new(seed);
    let holder = world.add(ms(2), LAN, 0);
    let liar = world.add(ms(1), LAN, 0);
    world.add(ms(1), LAN, 1 << 30);
    let size = [70_000, MIB, 3 * MIB + 5][seed as usize % 3];
    let content = world.file(1, size, &[holder]);
    let wrong = [size - 1, size + 1, size / 2, size * 2, 1][seed as usize % 5];
    let said = ContentKey::new(content.hash, wrong);
    world.claims.push((liar, said));
    world.nodes[liar].manner = Manner::Liar;
    (world, content, said)
}

const LIAR: usize = 1;
const READER: usize = 2;

#[test]
fn a_wrong_claimed_size_keeps_no_reader_from_the_right_bytes() {
    each_seed(60, |seed| {
        let (mut world, content, said) = disputed(seed);
        // The false size is read before, together with, or after the true one.
        let (first, second) = [(said, content), (content, said)][seed as usize % 2];
        world.later(Duration::ZERO, READER, Deed::Reads(first));
        world.later(ms(seed % 4 * 20), READER, Deed::Reads(second));
        world.later(ms(300), READER, Deed::Fills(content));
        world.run(Duration::from_secs(60));
        let node = &world.nodes[READER];
        for reader in &node.readers {
            assert!(reader.done_at.is_some(), "it waits for ever");
            if reader.content == content {
                assert!(reader.errors.is_empty(), "{:?}", reader.errors);
            } else {
                let lie = TransferError::from(PlanError::OnlyLiars);
                assert!(reader.errors.contains(&lie), "{:?}", reader.errors);
            }
        }
        let filled = node.fills[0].outcome.as_ref().map(|(_, outcome)| outcome);
        assert_eq!(filled, Some(&Ok(())));
        assert_eq!(node.shunned.iter().collect::<Vec<_>>(), [&node_id(LIAR)]);
    });
}

#[test]
fn a_node_that_claims_a_wrong_size_is_excluded_before_any_byte_is_requested() {
    each_seed(15, |seed| {
        let (mut world, content, _) = disputed(seed);
        let page = vec![(0, 4096)];
        world.later(Duration::ZERO, READER, Deed::ReadsParts(content, page));
        // This is long enough for the requests beside the page to finish.
        world.later(ms(1000), READER, Deed::Cancels);
        world.run(Duration::from_secs(5));
        let node = &world.nodes[READER];
        assert!(node.readers[0].errors.is_empty());
        assert_eq!(node.shunned.iter().collect::<Vec<_>>(), [&node_id(LIAR)]);
        assert!(
            node.received_bytes <= 3 * 65_536,
            "the page, the end, and no more"
        );
    });
}
