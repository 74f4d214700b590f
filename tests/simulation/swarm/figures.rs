//! Draws how long a swarm takes for one file, as a multiple of the time that its links need.

use std::fmt::Write;
use std::time::Duration;

use crate::swarm::world::{Deed, World};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB;
/// 50 Mbit/s in bytes a second, for every link in each direction.
const RATE: f64 = 6.25e6;
const HEAD: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 350"
 font-family="sans-serif" font-size="13">
<text x="20" y="20">One file of 8 MiB from one holder to many nodes, all links 50 Mbit/s, simulated:
 times as multiples of what one link needs</text>
"#;
/// Multiple at the top of the drawing.
const MULTIPLE_MAX: f64 = 12.0;
/// Path of the drawing.
const DRAWING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/swarm.svg");

/// Runs `count` nodes that want one holder's file. Returns the time until all have it as a multiple
/// of one link's time, and how many copies left the holder.
fn measured(count: usize, fills: bool) -> (f64, f64) {
    let mut world = World::new(count as u64);
    let holder = world.add(Duration::from_millis(4), RATE, 0);
    let content = world.file(1, SIZE, &[holder]);
    for _ in 0..count {
        let node = world.add(Duration::from_millis(4), RATE, 1 << 30);
        let deed = if fills {
            Deed::Fills(content)
        } else {
            Deed::Reads(content)
        };
        world.later(Duration::ZERO, node, deed);
    }
    world.run(Duration::from_secs(600));
    let mut last = world.start;
    for node in &world.nodes[1..] {
        assert!(node.readers.iter().all(|reader| reader.errors.is_empty()));
        let read = node.readers.iter().map(|reader| reader.done_at);
        let filled = node
            .fills
            .iter()
            .map(|fill| fill.outcome.as_ref().map(|it| it.0));
        let ended = read.chain(filled).map(|at| at.expect("it is through"));
        last = last.max(ended.max().expect("it wants the file"));
    }
    let least = SIZE as f64 / RATE;
    let copies = world.links.moved_bytes[&holder] / SIZE as f64;
    ((last - world.start).as_secs_f64() / least, copies)
}

/// Returns the vertical position of a multiple.
fn height(multiple: f64) -> f64 {
    300.0 - multiple * 260.0 / MULTIPLE_MAX
}

/// Draws a line through points that are one doubling apart.
fn line(svg: &mut String, colour: &str, label: &str, points: &[f64]) {
    let place = |(step, value): (usize, &f64)| format!("{},{:.1}", 70 + step * 90, height(*value));
    let path: Vec<String> = points.iter().enumerate().map(place).collect();
    let path = path.join(" ");
    let end = height(*points.last().expect("there are points"));
    write!(
        svg,
        r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>
<text x="{}" y="{end:.1}" fill="{colour}">{label}</text>
"#,
        78 + (points.len() - 1) * 90,
    )
    .expect("a string takes it");
}

#[test]
#[ignore = "takes minutes: draws docs/swarm.svg anew"]
fn the_time_of_a_swarm_is_plotted_against_its_bound() {
    let counts = [2, 4, 8, 16, 32, 64];
    let (mut reading, mut filling, mut copies) = (vec![], vec![], vec![]);
    for count in counts {
        let read = measured(count, false);
        let filled = measured(count, true);
        println!("{count}: read {read:.2?}, filled {filled:.2?}");
        reading.push(read.0);
        filling.push(filled.0);
        copies.push(read.1);
    }
    let mut svg = String::from(HEAD);
    for multiple in [0, 1, 2, 4, 6, 8, 10, 12] {
        let y = height(f64::from(multiple));
        write!(
            svg,
            r##"<line x1="60" x2="530" y1="{y}" y2="{y}" stroke="#ccc"/>
<text x="36" y="{y}">{multiple}</text>
"##
        )
        .expect("a string takes it");
    }
    for (step, count) in counts.iter().enumerate() {
        write!(
            svg,
            r#"<text x="{}" y="325">{count}</text>"#,
            63 + step * 90
        )
        .expect("a string takes it");
    }
    svg.push_str("<text x=\"230\" y=\"343\">nodes that want the file</text>\n");
    line(&mut svg, "#888", "one link (the bound)", &[1.0; 6]);
    line(&mut svg, "#06c", "read in order, the last", &reading);
    line(
        &mut svg,
        "#084",
        "brought into the cache, the last",
        &filling,
    );
    line(&mut svg, "#c30", "copies from the holder", &copies);
    svg.push_str("</svg>\n");
    std::fs::write(DRAWING, svg).expect("docs is there");
}

#[test]
fn a_file_read_by_many_leaves_its_holder_little_more_than_once() {
    for (count, most) in [(2, 1.1), (8, 1.2), (16, 1.5)] {
        let (_, copies) = measured(count, false);
        assert!(copies <= most, "{count} nodes read: {copies} copies");
    }
    let (_, copies) = measured(16, true);
    assert!(copies <= 1.1, "16 nodes fill: {copies} copies");
}
