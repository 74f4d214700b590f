//! A log that the user had this node forget stays forgotten, although other nodes still have it.

use super::*;
use crate::{CatalogueError, FORGOTTEN_MAX, LogWrite};

/// Creates an author that is gone, another node with its log and one of its contents cached whole,
/// and a watcher.
fn three() -> (Catalogue, Catalogue, Catalogue) {
    let (mut author, mut other, mut watcher) = (node(1, "x"), node(2, "y"), node(3, "z"));
    put(&mut author, "cached", file("cached", 1));
    put(&mut author, "alone", file("alone", 1));
    other.own_mut().have(hash("cached"), 6).unwrap();
    share(&mut other, &mut watcher);
    for to in [&mut other, &mut watcher] {
        share(&mut author, to);
        to.set_live(id(1), false).unwrap();
    }
    (author, other, watcher)
}

fn forget(watcher: &mut Catalogue, number: u8) {
    watcher.forget_until_back(&id(number));
    while watcher.advance(5) {}
}

#[test]
fn forgotten_entries_are_not_accepted_again_from_a_third_node() {
    let (_, other, mut watcher) = three();
    assert_eq!(names(&watcher.view()), ["cached"]);
    let head = other.logs().head_of(&id(1)).unwrap().clone();
    forget(&mut watcher, 1);
    assert_eq!(names(&watcher.view()), [""; 0]);
    assert_eq!(watcher.handle_head(&head), HeadOutcome::Known);
    let asked = Pull {
        author: id(1),
        epoch: head.head.epoch,
        after: 0,
    };
    let late = watcher.intake().apply(id(1), part(&other, asked, 4096));
    assert_eq!(late, Err(CatalogueError::Stale));
    assert_eq!(watcher.logs().authors(), [id(2)]);
    assert_eq!(names(&watcher.view()), [""; 0]);
}

#[test]
fn a_forgotten_node_is_listed_again_when_it_is_live_or_published_more() {
    let (_, other, mut watcher) = three();
    forget(&mut watcher, 1);
    watcher.set_live(id(1), true).unwrap();
    bring(&id(1), &other, &mut watcher, 1);
    assert_eq!(names(&watcher.view()), ["alone", "cached"]);

    let (mut author, mut other, mut watcher) = three();
    forget(&mut watcher, 1);
    let before = other.clone_log_of(&id(1));
    put(&mut author, "more", file("cached", 2));
    share(&mut author, &mut other);
    let pull = pull_of(watcher.handle_head(author.logs().head_of(&id(1)).unwrap()));
    let older = watcher.intake().apply(id(1), before);
    assert_eq!(older, Err(CatalogueError::Stale), "who knows less");
    let newer = watcher.intake().apply(id(1), part(&other, pull, 4096));
    assert_eq!(newer, Ok(Applied::Complete));
    assert_eq!(names(&watcher.view()), ["cached", "more"]);
}

impl Catalogue {
    /// Returns the whole of a log, as other nodes receive it now.
    fn clone_log_of(&self, author: &NodeId) -> LogPart {
        self.logs().part(author, 0, 0).expect("it has the log")
    }
}

fn refused(watcher: &mut Catalogue, heads: &[SignedHead]) -> usize {
    let known = heads.iter();
    known
        .filter(|head| watcher.handle_head(head) == HeadOutcome::Known)
        .count()
}

#[test]
fn forgetting_is_remembered_for_at_most_the_limit_of_nodes() {
    let mut watcher = node(1, "z");
    let mut heads = Vec::new();
    let mut forget_one = |watcher: &mut Catalogue, number: usize| {
        let mut key = [9; 32];
        key[..2].copy_from_slice(&(number as u16).to_le_bytes());
        let mut author = Catalogue::new(NodeId::new(key), NodeName::new("x").unwrap());
        put(&mut author, "a", file("one", 1));
        share(&mut author, watcher);
        heads.push(signed(&mut author));
        watcher.forget_until_back(&NodeId::new(key));
        while watcher.advance(usize::MAX) {}
        heads.clone()
    };
    let mut told = Vec::new();
    (0..FORGOTTEN_MAX).for_each(|number| told = forget_one(&mut watcher, number));
    assert_eq!(refused(&mut watcher, &told), FORGOTTEN_MAX);
    watcher.storage().take_writes(usize::MAX);
    told = forget_one(&mut watcher, FORGOTTEN_MAX);
    let stored = |write: &LogWrite| write.author != id(1) && write.forgotten_to.is_none();
    let writes = watcher.storage().take_writes(usize::MAX);
    assert_eq!(writes.iter().filter(|write| stored(write)).count(), 1);
    assert_eq!(refused(&mut watcher, &told[FORGOTTEN_MAX..]), 1, "the last");
    assert_eq!(refused(&mut watcher, &told), FORGOTTEN_MAX);
}
