//! Promises about what members say of those who are gone, or who are called so.

use std::time::Duration;

use p2pfs::cluster::ClusterConfig;

use crate::cluster::network::Weather;
use crate::cluster::world::World;

const SECOND: Duration = Duration::from_secs(1);

fn converge(world: &mut World) {
    let took = world.run_until(10 * SECOND, World::is_converged);
    assert!(took.is_some(), "not converged");
}

#[test]
fn who_is_gone_is_forgotten_in_its_time_though_others_start_anew_meanwhile() {
    let mut world = World::new(3, Weather::calm());
    for _ in 0..4 {
        let config = ClusterConfig {
            remember_down: 30 * SECOND,
            ..ClusterConfig::default()
        };
        let node = world.add(&[0], config);
        world.boot(node);
    }
    converge(&mut world);
    world.crash(3);
    converge(&mut world);
    world.run_for(15 * SECOND);
    for _ in 0..3 {
        world.crash(2);
        world.run_for(SECOND);
        world.boot(2);
        world.run_for(20 * SECOND);
    }
    world.run_for(45 * SECOND);
    for node in world.running() {
        let members = node.cluster.as_ref().unwrap().members();
        assert_eq!(members.len(), 2, "{}: {members:?}", node.address);
    }
}
