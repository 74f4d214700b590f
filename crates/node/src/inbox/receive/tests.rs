//! Files that nodes push, without the network.

use super::*;
use crate::inbox::InboxSettings;
use crate::inbox::coming::NOTED_EVERY_BYTES;
use crate::published::Published;
use p2pfs_catalogue::Catalogue;
use p2pfs_proto::trust::{EpochSecret, TestKeyring};
use p2pfs_proto::wire::native::tcp::GIVEN_MAX_BYTES;
use p2pfs_transfer::Pace;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeName;
use p2pfs_types::path::ARRIVING;

mod ends;

struct InboxWorld {
    folder: tempfile::TempDir,
    inbox: Inbox,
    pushes: Pushes,
    events: EventLog,
}

fn node(n: u8) -> NodeId {
    NodeId::new([n; 32])
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 1378))
}

fn world(accept: Accept, budget_bytes: u64) -> InboxWorld {
    world_in(tempfile::tempdir().unwrap(), accept, budget_bytes)
}

fn world_in(folder: tempfile::TempDir, accept: Accept, budget_bytes: u64) -> InboxWorld {
    let inbox = Inbox::open(InboxSettings {
        dir: folder.path().join("inbox"),
        budget_bytes,
        floor_bytes: 0,
    });
    let inbox = inbox.unwrap();
    let mut catalogue = Catalogue::new(node(0), NodeName::new("me").unwrap());
    let events = EventLog::default();
    let keyring = TestKeyring::in_memory(EpochSecret::random());
    let address = "127.0.0.1:1378".parse().unwrap();
    let names = Names::new(
        Published::new(
            p2pfs_content::PublishedNames::new(catalogue.view()),
            address,
            vec![],
        )
        .view,
        keyring.reader(),
    );
    let pushes = Pushes::new(PushParts {
        inbox: inbox.clone().into(),
        accept,
        events: events.clone(),
        mailbox: Mailbox::new(events.clone()),
        names,
        download: Pace::default(),
        taken: PeerBytes::default(),
    });
    InboxWorld {
        folder,
        inbox,
        pushes,
        events,
    }
}

/// A file that is kept over a restart, and how much of it is sent before the restart.
fn long() -> (Vec<u8>, usize) {
    let noted = NOTED_EVERY_BYTES as usize;
    let file: Vec<u8> = (0..3 * noted).map(|n| (n >> 9) as u8).collect();
    (file, 2 * noted + GIVEN_MAX_BYTES)
}

impl InboxWorld {
    /// Returns the node after it was killed and started again.
    fn restart(self) -> Self {
        world_in(self.folder, Accept::Members, 1 << 30)
    }

    /// Sends a range of a file and returns the last answer.
    async fn give_all(&self, file: &[u8], from: usize, to: usize) -> Response {
        let mut answer = Response::NotHere;
        for at in (from..to).step_by(GIVEN_MAX_BYTES) {
            let end = to.min(at + GIVEN_MAX_BYTES);
            answer = self.give(1, file, at, &file[at..end]).await;
        }
        answer
    }

    /// Returns the unfinished files in the subfolder that no share lists.
    fn parts(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.inbox.dir().join(ARRIVING));
        let paths = entries.into_iter().flatten().map(|it| it.unwrap().path());
        paths.filter(|it| it.extension().is_some()).collect()
    }

    /// Answers a push of a node; each node has its own address.
    async fn answer(&self, from: u8, push: Push) -> Response {
        self.pushes.answer(node(from), address(from), push).await
    }

    async fn offer(&self, from: u8, name: &[u8], bytes: &[u8], again: bool) -> Response {
        let push = Push::Offer {
            name: Bytes::copy_from_slice(name),
            size_bytes: bytes.len() as u64,
            hash: ContentHash::of(bytes),
            again,
        };
        self.answer(from, push).await
    }

    async fn give(&self, from: u8, of: &[u8], offset: usize, bytes: &[u8]) -> Response {
        let push = Push::Give {
            hash: ContentHash::of(of),
            offset: offset as u64,
            bytes: Bytes::copy_from_slice(bytes),
        };
        self.answer(from, push).await
    }

    fn listed(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.inbox.dir()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != ARRIVING).collect();
        names.sort();
        names
    }

    fn stages(&self) -> Vec<PushStage> {
        let told = |noted: crate::Noted| match noted.news {
            News::Received(push) => Some(push.stage),
            _ => None,
        };
        self.events
            .subscribe()
            .0
            .into_iter()
            .filter_map(told)
            .collect()
    }
}

fn taken(to_bytes: usize) -> Response {
    Response::Taken {
        to_bytes: to_bytes as u64,
    }
}

fn reason(response: Response) -> String {
    match response {
        Response::Refused { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_in_unordered_pieces_gets_its_name_once_verified() {
    let world = world(Accept::Members, 1 << 30);
    let file: Vec<u8> = (0..3 * GIVEN_MAX_BYTES).map(|n| (n >> 9) as u8).collect();
    assert_eq!(world.offer(1, b"a.bin", &file, false).await, taken(0));
    let part = |n: usize| &file[n * GIVEN_MAX_BYTES..(n + 1) * GIVEN_MAX_BYTES];
    let step = GIVEN_MAX_BYTES;
    assert_eq!(world.give(1, &file, step, part(1)).await, taken(0));
    assert_eq!(world.give(1, &file, 0, part(0)).await, taken(2 * step));
    assert!(world.listed().is_empty());
    assert_eq!(
        world.give(1, &file, 2 * step, part(2)).await,
        taken(3 * step)
    );
    assert_eq!(world.listed(), ["a.bin"]);
    assert_eq!(
        std::fs::read(world.inbox.dir().join("a.bin")).unwrap(),
        file
    );
    assert_eq!(world.stages(), [PushStage::Started, PushStage::Done]);
}

#[tokio::test]
async fn a_push_resumes_and_one_with_a_lost_confirmation_is_not_stored_twice() {
    let world = world(Accept::Members, 1 << 30);
    world.offer(1, b"a", b"hello", false).await;
    world.give(1, b"hello", 0, b"he").await;
    assert_eq!(world.offer(1, b"a", b"hello", true).await, taken(2));
    assert_eq!(world.give(1, b"hello", 2, b"llo").await, taken(5));
    assert_eq!(world.offer(1, b"a", b"hello", true).await, taken(5));
    assert_eq!(world.listed(), ["a"]);
    // a second push of the same file is another file
    assert_eq!(world.offer(1, b"a", b"hello", false).await, taken(0));
    world.give(1, b"hello", 0, b"hello").await;
    assert_eq!(world.listed(), ["a", "a-(1)"]);
    assert_eq!(world.offer(1, b"empty", b"", false).await, taken(0));
    assert_eq!(world.listed().len(), 3);
}

#[tokio::test]
async fn a_long_push_resumes_after_a_restart_of_its_receiver() {
    let world = world(Accept::Members, 1 << 30);
    let (file, given) = long();
    world.offer(1, b"long", &file, false).await;
    world.give_all(&file, 0, given).await;
    let world = world.restart();
    assert_eq!(world.listed(), Vec::<String>::new());
    let early = world.give_all(&file, given, given + 1).await;
    assert_eq!(early, Response::NotHere, "it is to be offered again");
    let noted = 2 * NOTED_EVERY_BYTES as usize;
    assert_eq!(world.offer(1, b"long", &file, true).await, taken(noted));
    let whole = world.give_all(&file, noted, file.len()).await;
    assert_eq!(whole, taken(file.len()));
    assert_eq!(world.listed(), ["long"]);
    let got = std::fs::read(world.inbox.dir().join("long")).unwrap();
    assert!(got == file, "other bytes");
    assert!(world.parts().is_empty());
}

#[tokio::test]
async fn a_left_over_part_is_trusted_as_far_as_it_matches_its_record() {
    let world = world(Accept::Members, 1 << 30);
    let (file, given) = long();
    world.offer(1, b"long", &file, false).await;
    world.give_all(&file, 0, given).await;
    let part = std::fs::File::options().write(true).open(&world.parts()[0]);
    std::os::unix::fs::FileExt::write_all_at(&part.unwrap(), b"!", 77).unwrap();
    let world = world.restart();
    assert_eq!(world.offer(1, b"long", &file, true).await, taken(0));
    let whole = world.give_all(&file, 0, file.len()).await;
    assert_eq!(whole, taken(file.len()));
    let got = std::fs::read(world.inbox.dir().join("long")).unwrap();
    assert!(got == file, "other bytes");
}

#[tokio::test]
async fn a_long_file_with_a_lost_confirmation_is_not_stored_twice_over_a_restart() {
    let world = world(Accept::Members, 1 << 30);
    let (file, _) = long();
    world.offer(1, b"long", &file, false).await;
    world.give_all(&file, 0, file.len()).await;
    let world = world.restart();
    let again = world.offer(1, b"long", &file, true).await;
    assert_eq!(again, taken(file.len()));
    assert_eq!(world.listed(), ["long"]);
    let later = Instant::now() + COMING_PATIENCE + Duration::from_secs(1);
    world.pushes.inner.expire(later);
    let left = std::fs::read_dir(world.inbox.dir().join(ARRIVING)).unwrap();
    assert_eq!(left.count(), 0, "nothing is left of it but the file");
}

#[tokio::test]
async fn an_abandoned_push_leaves_nothing_and_frees_its_room() {
    let (file, given) = long();
    let size = 2 * file.len() as u64;
    let world = world(Accept::Members, size);
    world.offer(1, b"long", &file, false).await;
    world.give_all(&file, 0, given).await;
    let world = world_in(world.folder, Accept::Members, size);
    let refused = reason(world.offer(1, b"other", b"x", false).await);
    assert!(refused.contains("room for 0 bytes"), "{refused}");
    let later = Instant::now() + COMING_PATIENCE + Duration::from_secs(1);
    world.pushes.inner.expire(later);
    assert!(world.parts().is_empty());
    assert_eq!(world.offer(1, b"other", b"x", false).await, taken(0));
}

#[tokio::test]
async fn wrong_and_surplus_bytes_are_refused_and_leave_nothing() {
    let world = world(Accept::Members, 1 << 30);
    world.offer(1, b"a", b"hello", false).await;
    let wrong = world.give(1, b"hello", 0, b"hellO").await;
    assert_eq!(reason(wrong), "its bytes do not fit its hash");
    world.offer(1, b"a", b"hello", false).await;
    let over = world.give(1, b"hello", 3, b"lo!").await;
    assert_eq!(reason(over), "more bytes than were offered");
    let stray = world.give(2, b"hello", 0, b"hello").await;
    assert_eq!(stray, Response::NotHere, "it is to be offered first");
    assert!(world.listed().is_empty());
}

#[tokio::test]
async fn an_inbox_is_closed_or_open_to_its_list() {
    let closed = world(Accept::Nobody, 100);
    let refused = closed.offer(1, b"a", b"x", false).await;
    let said = reason(refused);
    assert!(
        said.starts_with("its inbox is closed to this node"),
        "{said}"
    );
    let listed = world(Accept::Listed(vec![node(2).to_string()]), 100);
    assert!(matches!(
        listed.offer(1, b"a", b"x", false).await,
        Response::Refused { .. }
    ));
    assert_eq!(listed.offer(2, b"a", b"x", false).await, taken(0));
}

#[tokio::test]
async fn a_full_inbox_refuses_and_a_file_beyond_the_concurrent_limit_waits() {
    let small = world(Accept::Members, 4);
    let refused = reason(small.offer(1, b"a", b"hello", false).await);
    assert!(refused.contains("room for 4 bytes"), "{refused}");
    let open = world(Accept::Members, 1 << 30);
    let mut taken_count = 0;
    for n in 0..100_u32 {
        let answer = open.offer(1, b"a", &n.to_be_bytes(), false).await;
        let is_taken = answer == taken(0);
        assert!(is_taken || answer == Response::Busy, "{answer:?}");
        taken_count += usize::from(is_taken);
    }
    assert_eq!(taken_count, COMING_OF_NODE_MAX);
    assert_eq!(open.offer(2, b"a", b"x", false).await, taken(0));
}

#[tokio::test]
async fn concurrent_files_of_all_nodes_are_bounded() {
    let open = world(Accept::Members, 1 << 30);
    for n in 0..COMING_MAX as u32 {
        let from = 1 + n as u8 / COMING_OF_NODE_MAX as u8;
        let answer = open.offer(from, b"a", &n.to_be_bytes(), false).await;
        assert_eq!(answer, taken(0), "{n}");
    }
    let one_more = open.offer(99, b"a", b"one more", false).await;
    assert_eq!(one_more, Response::Busy);
}

#[tokio::test]
async fn a_stalled_push_is_given_up() {
    let world = world(Accept::Members, 10);
    world.offer(1, b"a", b"hello", false).await;
    assert!(matches!(
        world.offer(1, b"b", b"other", false).await,
        Response::Refused { .. }
    ));
    let later = Instant::now() + COMING_PATIENCE + Duration::from_secs(1);
    world.pushes.inner.expire(later);
    assert_eq!(world.offer(1, b"b", b"other", false).await, taken(0));
    assert!(matches!(world.stages()[1], PushStage::Failed(_)));
}

#[tokio::test]
async fn a_long_file_sent_twice_is_stored_twice_even_after_records_expire() {
    let world = world(Accept::Members, 1 << 30);
    let (file, half) = long();
    world.offer(1, b"long", &file, false).await;
    assert_eq!(
        world.give_all(&file, 0, file.len()).await,
        taken(file.len())
    );
    assert_eq!(world.offer(1, b"long", &file, false).await, taken(0));
    world.give_all(&file, 0, half).await;
    // enough others arrive that the first arrival is forgotten
    for number in 0..=ARRIVED_MAX as u32 {
        let small = number.to_be_bytes();
        world.offer(2, b"small", &small, false).await;
        let hash = ContentHash::of(&small);
        let (offset, bytes) = (0, Bytes::copy_from_slice(&small));
        let give = Push::Give {
            hash,
            offset,
            bytes,
        };
        assert_eq!(world.answer(2, give).await, taken(4));
    }
    assert_eq!(
        world.give_all(&file, half, file.len()).await,
        taken(file.len())
    );
    let listed = world.listed();
    let both = listed.iter().filter(|name| name.starts_with("long"));
    assert_eq!(both.count(), 2, "{listed:?}");
}

#[tokio::test]
async fn an_endlessly_talking_node_is_served_a_few_times() {
    let world = world(Accept::Nobody, 8);
    let say = || Push::Say {
        text: "hi".to_owned(),
    };
    let mut heard = 0;
    for _ in 0..1000 {
        let answer = world.answer(1, say()).await;
        heard += usize::from(answer == taken(0));
    }
    // a slow test may say some more lines
    assert!((SAID_BURST as usize..500).contains(&heard), "{heard}");
    assert_eq!(world.answer(2, say()).await, taken(0));
}

#[test]
fn nodes_that_spoke_once_and_fell_silent_take_no_memory() {
    let (mut state, begin) = (PushTable::default(), Instant::now());
    for number in 0..=u8::MAX {
        assert!(state.may_say(ChargedSender::at(address(number)), begin));
    }
    let later = begin + SAID_EACH * SAID_BURST;
    assert!(state.may_say(ChargedSender::at(address(0)), later));
    assert_eq!(state.said.len(), 1);
}

#[tokio::test]
async fn one_host_gets_half_of_an_inbox_under_any_number_of_keys() {
    let world = world(Accept::Members, 20);
    let flooder = address(9);
    let offer = |n: u8| Push::Offer {
        name: Bytes::from_static(b"spam"),
        size_bytes: 5,
        hash: ContentHash::of(&[n]),
        again: false,
    };
    let mut outcomes = Vec::new();
    for n in 0..4 {
        outcomes.push(world.pushes.answer(node(n), flooder, offer(n)).await);
    }
    assert_eq!(outcomes[..2], [taken(0), taken(0)]);
    let refused = reason(outcomes.swap_remove(3));
    assert!(refused.contains("from one sender"), "{refused}");
    assert_eq!(world.offer(1, b"honest", b"hello", false).await, taken(0));
}
