//! Tests of `ahead`.

use super::super::order::OrderedFile;
use super::*;

const CP: u32 = 7;
const DIR: u64 = 1;

/// Creates files `000`, `001` and so on, with numbers in no order. Each requests its own position.
fn directory(count: usize, size_bytes: u64) -> Arc<FileOrders<usize>> {
    let file = |place: usize| OrderedFile {
        name: format!("{place:05}").into_bytes().into(),
        number: (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        cookie: (place as u64 + 1).wrapping_mul(0xd1b5_4a32_d192_ed03),
        size_bytes,
        ask: Some(place),
    };
    Arc::new(FileOrders::new((0..count).map(file).collect()))
}

struct World {
    ahead: OpenPredictor<u64, usize>,
    files: Arc<FileOrders<usize>>,
    now: Instant,
    asked: Vec<usize>,
    /// The number of the last directory. Directories are numbered.
    last_dir: u64,
}

impl World {
    fn new(count: usize, size_bytes: u64) -> Self {
        Self {
            ahead: OpenPredictor::new(),
            files: directory(count, size_bytes),
            now: Instant::now(),
            asked: vec![],
            last_dir: DIR,
        }
    }

    fn open_in(&mut self, dir: u64, place: usize) {
        let name = self.files.at(SortKey::Name, place).unwrap().name.clone();
        let follow = self.ahead.opened(self.now, CP, &dir, &name);
        self.follow(follow);
    }

    fn follow(&mut self, mut follow: Prediction<u64, usize>) {
        loop {
            self.asked.extend(follow.ask);
            let files = self.files.clone();
            follow = match follow.needs {
                None => return,
                Some(Needs::Order(dir)) => self.ahead.listed(self.now, CP, &dir, files),
                Some(Needs::After(dir, _)) if dir < self.last_dir => {
                    self.ahead.comes_next(self.now, CP, &(dir + 1), || files)
                }
                Some(Needs::After(..)) => return,
            };
        }
    }

    fn open(&mut self, place: usize) {
        self.open_in(DIR, place);
    }
}

#[test]
fn opening_three_files_in_name_order_prefetches_the_next_ones() {
    let mut world = World::new(1000, 10);
    world.open(0);
    world.open(1);
    assert_eq!(world.asked, [0; 0]);
    world.open(2);
    assert_eq!(world.asked, [3, 4, 5, 6]);
    (3..1000).for_each(|place| world.open(place));
    assert_eq!(
        world.asked,
        (3..1000).collect::<Vec<_>>(),
        "each once, in order"
    );
}

#[test]
fn numeric_and_listing_order_prefetch_as_well() {
    for by in [SortKey::Number, SortKey::Listing] {
        let mut world = World::new(1000, 10);
        let order = world.files.in_order(by);
        order.iter().for_each(|place| world.open(*place));
        assert_eq!(world.asked, order[3..]);
    }
}

#[test]
fn prefetch_grows_with_use_up_to_a_limit() {
    let mut world = World::new(5000, 10);
    let mut most = 0;
    for place in 0..5000 {
        world.open(place);
        most = most.max((world.asked.len() + 3).saturating_sub(place + 1));
        assert!(most <= WINDOW_START + place, "{most} at {place}");
    }
    assert!(
        (WINDOW_MAX_FILES / 2..=WINDOW_MAX_FILES).contains(&most),
        "{most}"
    );
}

#[test]
fn prefetched_unopened_bytes_are_bounded() {
    let size_bytes = 60_000;
    let mut world = World::new(2000, size_bytes);
    for place in 0..1000 {
        world.open(place);
        let unread = (world.asked.len() + 3).saturating_sub(place + 1) as u64;
        assert!(unread * size_bytes <= WINDOW_MAX_BYTES);
    }
    assert!(world.asked.len() > 1000);
}

#[test]
fn reading_one_file_in_ten_wastes_little() {
    for step in [2, 3, 10] {
        let mut world = World::new(5000, 10);
        (0..5000).step_by(step).for_each(|place| world.open(place));
        assert_eq!(world.asked, [0; 0], "one in {step}");
    }
    let mut state = 1u64;
    let mut chance = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state >> 33
    };
    for trial in 0..20 {
        let mut world = World::new(5000, 10);
        let opened: Vec<usize> = (0..5000).filter(|_| chance().is_multiple_of(10)).collect();
        opened.iter().for_each(|place| world.open(*place));
        let in_vain = world
            .asked
            .iter()
            .filter(|place| !opened.contains(place))
            .count();
        assert!(
            in_vain * 5 <= opened.len(),
            "trial {trial}: {in_vain} of {}",
            opened.len()
        );
    }
}

#[test]
fn a_program_that_stops_reading_everything_is_no_longer_followed() {
    let mut world = World::new(5000, 10);
    (0..1000).for_each(|place| world.open(place));
    let before = world.asked.len();
    (1000..5000).step_by(10).for_each(|place| world.open(place));
    assert!(
        world.asked.len() - before <= WINDOW_MAX_FILES / 2,
        "{}",
        world.asked.len()
    );
}

#[test]
fn threads_slightly_out_of_order_count_as_one_program() {
    let mut world = World::new(1000, 10);
    (0..10).for_each(|place| world.open(place));
    for pair in 5..499 {
        world.open(pair * 2 + 1);
        world.open(pair * 2);
    }
    assert!(world.asked.len() > 900, "{}", world.asked.len());
}

#[test]
fn the_next_directory_of_a_walk_is_prefetched_when_it_is_listed() {
    let mut world = World::new(100, 10);
    assert_eq!(
        world.ahead.lists(CP, &DIR),
        Prediction::NOTHING,
        "nothing is known yet"
    );
    (0..100).for_each(|place| world.open(place));
    world.asked.clear();
    let follow = world.ahead.lists(CP, &(DIR + 1));
    assert_eq!(follow.needs, Some(Needs::Order(DIR + 1)));
    world.follow(follow);
    assert!(world.asked.len() >= WINDOW_START && world.asked[0] == 0);
    (0..100).for_each(|place| world.open_in(DIR + 1, place));
    assert_eq!(world.asked, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_walk_over_two_directories_prefetches_the_third() {
    let mut world = World::new(20, 10);
    world.last_dir = DIR + 9;
    for dir in DIR..DIR + 10 {
        (0..20).for_each(|place| world.open_in(dir, place));
        let asked = world.asked.len();
        assert!(
            dir < DIR + 2 || dir == DIR + 9 || asked > 20 * dir as usize,
            "{asked}"
        );
    }
    assert!(world.asked.len() <= 20 * 10);
}

#[test]
fn a_program_that_turns_elsewhere_wastes_little() {
    let mut world = World::new(4, 10);
    world.last_dir = DIR + 10_000;
    (DIR..DIR + 50).for_each(|dir| (0..4).for_each(|place| world.open_in(dir, place)));
    let before = world.asked.len();
    for dir in (DIR + 1000..DIR + 9000).step_by(100) {
        (0..4).for_each(|place| world.open_in(dir, place));
    }
    let more = world.asked.len() - before;
    assert!(more <= WINDOW_MAX_FILES + 4 * 80, "{more}");
}

#[test]
fn a_name_outside_the_order_prefetches_nothing() {
    let mut world = World::new(10, 10);
    (0..4).for_each(|place| world.open(place));
    let before = world.asked.clone();
    let unknown = world.ahead.opened(world.now, CP, &DIR, b"new");
    world.follow(unknown);
    assert_eq!(world.asked, before);
}

#[test]
fn few_directories_are_followed_for_a_program_that_opens_little_in_each() {
    let mut world = World::new(10, 10);
    for dir in 0..1000 {
        (0..RUN_MIN).for_each(|_| world.open_in(dir, 5));
        let program = world.ahead.programs.peek(&CP).unwrap();
        assert!(program.directories.len() <= DIRECTORIES_MAX);
        assert!(program.knows(&dir), "the latest is among them");
    }
    assert_eq!(world.asked, [0; 0]);
}
