//! Answers about the end of a file. A sender must not be told that a file arrived if it is not
//! there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;

use super::*;

/// Longer than anything here takes unless it is blocked.
const PATIENCE: Duration = Duration::from_secs(400);

fn key(file: &[u8]) -> PushKey {
    (node(1), ContentHash::of(file))
}

impl InboxWorld {
    fn coming(&self, file: &[u8]) -> SharedPush {
        self.pushes.inner.state.lock().coming[&key(file)]
            .held
            .clone()
    }

    /// Gives up a file that is locked here, once `waiting` other threads wait for it.
    fn give_up(
        &self,
        (file, coming): (&[u8], &SharedPush),
        mut held: MutexGuard<IncomingPush>,
        waiting: usize,
    ) {
        let begun = Instant::now();
        // the reference in the table, and this one
        while Arc::strong_count(coming) < 2 + waiting {
            assert!(begun.elapsed() < PATIENCE, "nobody waits for it");
            thread::yield_now();
        }
        let why = "no space left on device";
        self.pushes.inner.give_up(key(file), &mut held, why);
    }
}

#[tokio::test]
async fn a_complete_unnamed_file_gets_its_name_after_its_receivers_restart() {
    let world = world(Accept::Members, 1 << 30);
    let (file, _) = long();
    let last = file.len() - GIVEN_MAX_BYTES;
    world.offer(1, b"long", &file, false).await;
    world.give_all(&file, 0, last).await;
    let bytes = world.parts().remove(0);
    let part = File::options().write(true).open(&bytes).unwrap();
    part.write_all_at(&file[last..], last as u64).unwrap();
    let whole = ProgressNote {
        from: node(1),
        hash: ContentHash::of(&file),
        name: b"long".to_vec(),
        size_bytes: file.len() as u64,
        prefix_bytes: file.len() as u64,
        prefix_hash: ContentHash::of(&file),
    };
    let note = postcard::to_stdvec(&whole).unwrap();
    fs::write(bytes.with_extension(""), note).unwrap();
    let world = world.restart();
    let again = world.offer(1, b"long", &file, true).await;
    assert_eq!(again, taken(file.len()));
    assert_eq!(world.listed(), ["long"]);
    let got = fs::read(world.inbox.dir().join("long")).unwrap();
    assert!(got == file, "other bytes");
    assert_eq!(world.stages(), [PushStage::Started, PushStage::Done]);
    let again = world.offer(1, b"long", &file, true).await;
    assert_eq!(again, taken(file.len()));
    assert_eq!(world.listed(), ["long"]);
}

#[tokio::test]
async fn a_file_sent_again_is_not_answered_as_already_present() {
    let mut world = world(Accept::Members, 1 << 30);
    let (long, half) = long();
    for (file, half) in [(b"hello".to_vec(), 2), (long, half)] {
        world.offer(1, b"a", &file, false).await;
        let came = world.give_all(&file, 0, file.len()).await;
        assert_eq!(came, taken(file.len()));
        fs::remove_file(world.inbox.dir().join("a")).unwrap();
        assert_eq!(world.offer(1, b"a", &file, false).await, taken(0));
        world.give_all(&file, 0, half).await;
        // the connection broke, so the file is offered again
        assert_eq!(world.offer(1, b"a", &file, true).await, taken(half));
        let came = world.give_all(&file, half, file.len()).await;
        assert_eq!(came, taken(file.len()));
        assert_eq!(world.listed(), ["a"]);
        fs::remove_file(world.inbox.dir().join("a")).unwrap();
        // also according to the notes of an earlier life
        world = world.restart();
        assert_eq!(world.offer(1, b"a", &file, false).await, taken(0));
        world.give(1, &file, 0, &file[..1]).await;
        assert_eq!(world.offer(1, b"a", &file, true).await, taken(1));
    }
}

#[tokio::test]
async fn a_sender_of_an_abandoned_file_is_not_told_that_it_arrived() {
    let world = world(Accept::Members, 1 << 30);
    let (file, size) = (b"hello", 5);
    let inner = &world.pushes.inner;
    world.offer(1, b"a", file, false).await;
    world.give(1, file, 0, b"he").await;
    let give = Push::Give {
        hash: ContentHash::of(file),
        offset: 2,
        bytes: Bytes::from_static(b"llo"),
    };
    let offer = Push::Offer {
        name: Bytes::from_static(b"a"),
        size_bytes: size,
        hash: ContentHash::of(file),
        again: true,
    };
    let coming = world.coming(file);
    // locked before the other threads start: the first of them would end the file
    let held = coming.lock();
    let (given, offered) = thread::scope(|scope| {
        let giving = scope.spawn(|| inner.answer(node(1), ChargedSender::at(address(1)), give));
        let offering = scope.spawn(|| inner.answer(node(1), ChargedSender::at(address(1)), offer));
        world.give_up((file, &coming), held, 2);
        (giving.join().unwrap(), offering.join().unwrap())
    });
    assert_eq!(given, Response::NotHere);
    assert_eq!(offered, taken(0), "it is begun anew");
    assert_eq!(world.give(1, file, 0, file).await, taken(5));
    assert_eq!(world.listed(), ["a"]);
}

#[tokio::test]
async fn buffered_pieces_of_a_file_are_bounded() {
    let world = world(Accept::Members, 1 << 30);
    let file = [7; 2000];
    world.offer(1, b"a", &file, false).await;
    let mut taken_count = 0;
    for at in (1..file.len()).step_by(2) {
        match world.give(1, &file, at, &file[at..=at]).await {
            Response::Taken { .. } => taken_count += 1,
            Response::Refused { reason } => {
                assert_eq!(reason, "its pieces come in no order");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(taken_count, 64);
    assert_eq!(world.give(1, &file, 0, &file).await, Response::NotHere);
}

#[tokio::test(start_paused = true)]
async fn an_inbox_with_a_waiting_disk_blocks_nothing_else_of_its_node() {
    let world = world(Accept::Members, 1 << 30);
    let inner = world.pushes.inner.clone();
    let (held, is_held) = mpsc::channel();
    let (let_go, is_let_go) = mpsc::channel();
    let disk = thread::spawn(move || {
        let _state = inner.state.lock();
        held.send(()).unwrap();
        is_let_go.recv_timeout(PATIENCE).is_ok()
    });
    is_held.recv().unwrap();
    // old files are due to expire, and one thread serves that and this
    tokio::time::advance(COMING_PATIENCE).await;
    tokio::task::yield_now().await;
    let _late = let_go.send(());
    assert!(disk.join().unwrap(), "the only thread waited for the disk");
}

#[tokio::test]
async fn a_file_begun_on_a_waiting_disk_blocks_no_other_file() {
    let world = world(Accept::Members, 1 << 30);
    let inner = &world.pushes.inner;
    world.offer(1, b"a", b"hello", false).await;
    let waits = world.inbox.keep_waiting();
    let offer = Push::Offer {
        name: Bytes::from_static(b"b"),
        size_bytes: 5,
        hash: ContentHash::of(b"other"),
        again: false,
    };
    let give = Push::Give {
        hash: ContentHash::of(b"hello"),
        offset: 0,
        bytes: Bytes::from_static(b"hel"),
    };
    thread::scope(|scope| {
        let offering = scope.spawn(|| inner.answer(node(1), ChargedSender::at(address(1)), offer));
        let (gave, given) = mpsc::channel();
        scope.spawn(move || {
            // until it has space, the other file may take only its slot
            while inner.state.lock().coming.len() < 2 {
                thread::yield_now();
            }
            let _late = gave.send(inner.answer(node(1), ChargedSender::at(address(1)), give));
        });
        let given = given.recv_timeout(PATIENCE);
        drop(waits);
        assert_eq!(given, Ok(taken(3)));
        assert_eq!(offering.join().unwrap(), taken(0));
    });
}

#[tokio::test]
async fn an_abandoned_file_does_not_affect_the_next_with_the_same_bytes() {
    let world = world(Accept::Members, 1 << 30);
    let (file, half) = long();
    world.offer(1, b"long", &file, false).await;
    world.give_all(&file, 0, half).await;
    let old = world.coming(&file);
    let later = Instant::now() + COMING_PATIENCE + Duration::from_secs(1);
    {
        let _written_to = old.lock();
        world.pushes.inner.expire(later);
        assert!(Arc::ptr_eq(&old, &world.coming(&file)), "it is in use");
    }
    world.pushes.inner.expire(later);
    assert!(world.parts().is_empty() && old.lock().is_gone());
    assert_eq!(world.offer(1, b"long", &file, true).await, taken(0));
    assert_eq!(world.parts().len(), 1);
}
