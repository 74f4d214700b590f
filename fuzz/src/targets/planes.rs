//! The machines of the two legacy protocols: datagrams and lines from any sender, in any order.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use p2pfs_legacy::discovery::{
    CANDIDATES_MAX, LegacyConfig, LegacyEvent, LegacyMachine, MEMBERS_MAX, Requester,
};
use p2pfs_legacy::mesh::{ConnId, KNOWN_MAX, MeshConfig, MeshEvent, MeshMachine};
use p2pfs_legacy::wire::discovery::{MemberName, Name};
use p2pfs_legacy::wire::mesh::Line;

const STEPS_MAX: usize = 300;

fn address(choose: &mut Unstructured<'_>) -> Result<SocketAddrV4> {
    let last = choose.int_in_range(1..=6)?;
    let port = choose.int_in_range(1..=4)?;
    Ok(SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), port))
}

fn text<'a>(choose: &mut Unstructured<'a>, kinds: &[&str]) -> Result<Vec<u8>> {
    let kind = choose.choose(kinds)?;
    let length = choose.int_in_range(0..=choose.len().min(80))?;
    Ok([kind.as_bytes(), choose.bytes(length)?].concat())
}

/// Runs discovery. A peer that never answered must not get more bytes than came from it.
pub fn legacy(choose: &mut Unstructured<'_>) -> Result<()> {
    let mut now = Instant::now();
    let own = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 100), 1);
    let second = Duration::from_secs(1);
    let config = LegacyConfig {
        own,
        members: vec![],
        period: 10 * second,
        waiting: 30 * second,
        lookup: 12 * second,
        responder_delay: 10 * second,
    };
    let mut machine = LegacyMachine::new(config, Box::new(move |at| at == own), now);
    let mut steps = 0;
    while !choose.is_empty() && steps < STEPS_MAX {
        steps += 1;
        let name = Name::new(&[b'a' + choose.int_in_range(0..=2)?]).expect("a name");
        match choose.int_in_range(0..=7u8)? {
            0..=4 => {
                let kinds = [
                    "DISCOVER,",
                    "Discover,",
                    "Get,",
                    "File,",
                    "DISCOVER,10.0.0.3:2,",
                    "",
                ];
                let (from, bytes) = (address(choose)?, text(choose, &kinds)?);
                machine.handle_message(now, SocketAddr::V4(from), &bytes, &|name| {
                    name.as_bytes() == b"a"
                });
            }
            5 => drop(machine.ask(now, &name, Requester::program(1000), &[])),
            6 => machine.tried(now, &name, address(choose)?, choose.arbitrary()?),
            _ => {
                now += Duration::from_millis(choose.int_in_range(0..=12_000)?);
                machine.handle_timeout(now, &|_| false);
            }
        }
        while let Some((to, _)) = machine.poll_transmit() {
            assert_ne!(to, own, "it speaks to itself");
        }
        while let Some(event) = machine.poll_event() {
            if let LegacyEvent::Try { name, at, .. } = event {
                machine.tried(now, &name, at, choose.arbitrary()?);
            }
        }
        assert!(machine.members().len() <= MEMBERS_MAX + CANDIDATES_MAX + 1024);
    }
    Ok(())
}

/// Runs the mesh: connections that arrive, are dialled, send and end.
pub fn mesh(choose: &mut Unstructured<'_>) -> Result<()> {
    const CONNECTIONS: u64 = 6;
    let mut now = Instant::now();
    let config = MeshConfig {
        id: "us".into(),
        name: "us".into(),
        port: 1,
        max_peers: 4,
        configured: vec![],
    };
    let mut machine = MeshMachine::new(config, Box::new(|_| false), 7, now);
    let (mut steps, mut made) = (0, 0);
    while !choose.is_empty() && steps < STEPS_MAX {
        steps += 1;
        let conn = ConnId(choose.int_in_range(made - made.min(CONNECTIONS)..=made)?);
        match choose.int_in_range(0..=9u8)? {
            0 => {
                made += 1;
                machine.accepted(now, ConnId(made), SocketAddr::V4(address(choose)?));
            }
            1 => {
                made += 1;
                let (local, remote) = (address(choose)?, address(choose)?);
                let name = MemberName::parse(remote.to_string().as_bytes()).expect("a name");
                machine.dialled(now, ConnId(made), name, local.into(), remote.into());
            }
            2 | 3 => machine.hello(now, conn, &text(choose, &["1:", "2:eve", "DUPLICATE", ""])?),
            4..=6 => {
                let kinds = [
                    "LISTEN:",
                    "PEERS:",
                    "CHAT:",
                    "PING",
                    "REQUEST_PEERS",
                    "BYTES:",
                    "",
                ];
                machine.line(now, conn, Line::parse(&text(choose, &kinds)?));
            }
            7 => machine.closed(now, conn),
            8 => machine.alive(now, conn),
            _ => {
                now += Duration::from_millis(choose.int_in_range(0..=20_000)?);
                machine.handle_timeout(now);
            }
        }
        while machine.poll_transmit().is_some() {}
        while let Some(event) = machine.poll_event() {
            if let MeshEvent::Dial(name) = event {
                machine.dial_failed(now, &name);
            }
        }
        assert!(machine.known().len() <= KNOWN_MAX);
    }
    Ok(())
}
