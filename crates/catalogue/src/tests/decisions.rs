//! Compares the decision about one name, its reasons and its listing with an independent model, for
//! random versions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::{EARLY_TOLERANCE_SECONDS, Owners, Rule};

/// The numbers of the authors.
const AUTHORS: std::ops::RangeInclusive<u8> = 1..=4;
/// The share of the directory records. The other shares have the files and links.
const DIRECTORY_SHARE: u16 = 9;

/// A file before a link, each with its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Content {
    File(&'static str),
    Link(&'static str),
}

impl Content {
    fn entry(self, seconds: i64) -> Entry {
        match self {
            Self::File(text) => file(text, seconds),
            Self::Link(target) => link(target, seconds),
        }
    }

    /// Returns the text by which contents of one time are ordered.
    fn order(self) -> (bool, String) {
        match self {
            Self::File(text) => (false, hash(text).to_string()),
            Self::Link(target) => (true, target.to_owned()),
        }
    }
}

/// Everything that can matter for the name `n`.
#[derive(Clone, Debug)]
struct Contest {
    /// Content and time, by author and share.
    said: BTreeMap<(u8, u16), (Content, i64)>,
    live: BTreeSet<u8>,
    cached: BTreeSet<(u8, &'static str)>,
    owner: Option<u8>,
    /// The owner of a path below the name.
    owner_below: Option<u8>,
    /// The latest time that is not ahead of the clock.
    horizon: Option<i64>,
    unserved: Option<&'static str>,
    shunned: Option<u8>,
    /// A node with a directory of this name.
    directory: Option<u8>,
}

fn contests() -> impl Strategy<Value = Contest> {
    let texts = || prop_oneof![Just("one"), Just("two"), Just("three")];
    let contents = prop_oneof![
        3 => texts().prop_map(Content::File),
        1 => texts().prop_map(Content::Link),
    ];
    let said = prop::collection::btree_map((AUTHORS, 0u16..2), (contents, 0i64..4), 0..7);
    let live = prop::collection::btree_set(AUTHORS, 0..=4);
    let cached = prop::collection::btree_set((AUTHORS, texts()), 0..3);
    let owners = (
        option::weighted(0.3, AUTHORS),
        option::weighted(0.2, AUTHORS),
    );
    let marks = (
        option::weighted(0.4, texts()),
        option::weighted(0.3, AUTHORS),
    );
    let clock = option::weighted(0.3, 0i64..4);
    let directory = option::weighted(0.2, AUTHORS);
    (said, live, cached, owners, clock, marks, directory).prop_map(
        |(said, live, cached, owners, horizon, marks, directory)| Contest {
            said,
            live,
            cached,
            owner: owners.0,
            owner_below: owners.1,
            horizon,
            unserved: marks.0,
            shunned: marks.1,
            directory,
        },
    )
}

/// A version of the name as the model explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Explained {
    content: Option<Content>,
    has_name: bool,
    rule: Rule,
    first_author: NodeId,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    author: u8,
    share: u16,
    content: Content,
    seconds: i64,
}

impl Contest {
    fn watcher(&self) -> Catalogue {
        let mut watcher = node(0xff, "watcher");
        for number in AUTHORS {
            let mut author = node(number, &format!("n{number}"));
            for ((_, share), (content, seconds)) in self.said.iter().filter(|it| it.0.0 == number) {
                let (share, entry) = (ShareIndex(*share), content.entry(*seconds));
                author.own_mut().put(share, &path("n"), entry).unwrap();
            }
            for (_, text) in self.cached.iter().filter(|it| it.0 == number) {
                author
                    .own_mut()
                    .have(hash(text), text.len() as u64)
                    .unwrap();
            }
            if self.directory == Some(number) {
                let share = ShareIndex(DIRECTORY_SHARE);
                author
                    .own_mut()
                    .put(share, &path("n"), directory(0))
                    .unwrap();
            }
            share(&mut author, &mut watcher);
        }
        for number in AUTHORS {
            let is_live = self.live.contains(&number);
            watcher.set_live(id(number), is_live).unwrap();
        }
        let owned = [("n", self.owner), ("n/below", self.owner_below)];
        let owned = owned
            .into_iter()
            .filter_map(|(name, owner)| Some((path(name), id(owner?))));
        watcher.set_owners(owned.collect::<Owners>());
        if let Some(horizon) = self.horizon {
            watcher.set_clock(horizon - EARLY_TOLERANCE_SECONDS);
        }
        let later = Instant::now() + Duration::from_secs(3600);
        if let Some(text) = self.unserved {
            watcher.unserved().mark(key(text), later);
        }
        if let Some(liar) = self.shunned {
            watcher.unserved().shun(id(liar), later);
        }
        while watcher.advance(7) {}
        watcher
    }

    fn candidates(&self) -> Vec<Candidate> {
        let said = self.said.iter();
        let candidate = |(at, what): (&(u8, u16), &(Content, i64))| Candidate {
            author: at.0,
            share: at.1,
            content: what.0,
            seconds: what.1,
        };
        said.map(candidate).collect()
    }

    fn is_available(&self, text: &'static str) -> bool {
        let shares = self.candidates().into_iter();
        let shares = shares
            .filter(|it| it.content == Content::File(text))
            .any(|it| self.live.contains(&it.author));
        shares
            || self
                .cached
                .iter()
                .any(|(author, cached)| *cached == text && self.live.contains(author))
    }

    /// Returns why a candidate is under no name.
    fn excluded(&self, it: &Candidate) -> Option<Rule> {
        let is_link = matches!(it.content, Content::Link(_));
        // The nearest owner above a path owns it, so `n/below` is `n`'s without an owner.
        let others = |owner: Option<u8>| owner.is_some_and(|owner| owner != it.author);
        if others(self.owner) || (is_link && others(self.owner_below)) {
            return Some(Rule::Owner);
        }
        if self.horizon.is_some_and(|horizon| it.seconds > horizon) {
            return Some(Rule::Clock);
        }
        let can_be_had = match it.content {
            Content::File(text) => self.is_available(text),
            Content::Link(_) => self.live.contains(&it.author),
        };
        (!can_be_had).then_some(Rule::Givable)
    }

    fn is_unserved(&self, it: &Candidate) -> bool {
        let marked = self.unserved.filter(|text| self.is_available(text));
        let is_marked = marked.is_some_and(|text| it.content == Content::File(text));
        is_marked || self.shunned == Some(it.author)
    }

    /// Returns the order by one tail of the rules: 0 for all rules, 1 without the rule about unserved
    /// versions, 2 for time and content alone.
    fn tail(&self, rules: usize, it: &Candidate) -> impl Ord + use<> {
        let unserved = rules < 1 && self.is_unserved(it);
        let gone = rules < 2 && !self.live.contains(&it.author);
        (unserved, gone, Reverse(it.seconds), it.content.order())
    }

    fn rank(&self, it: &Candidate) -> impl Ord + use<> {
        (self.tail(0, it), id(it.author), it.share)
    }

    /// Returns the rule that puts one version ahead of another: the last rule from which on to the
    /// first all tails of the rules order them so.
    fn ahead_by(&self, first: &Candidate, other: &Candidate) -> Rule {
        let agrees = |rules: &usize| self.tail(*rules, first) < self.tail(*rules, other);
        match (0..3).take_while(agrees).count() {
            1 => Rule::Served,
            2 => Rule::AuthorLives,
            _ if first.seconds > other.seconds => Rule::Newest,
            _ => Rule::SmallestHash,
        }
    }

    fn explained(&self) -> Vec<Explained> {
        let directory = self.directory.filter(|node| {
            self.live.contains(node) && self.owner.is_none_or(|owner| owner == *node)
        });
        let mut candidates = self.candidates();
        candidates.sort_by_key(|it| (self.excluded(it).is_some(), self.rank(it)));
        let mut seen = BTreeSet::new();
        candidates.retain(|it| seen.insert(it.content));
        let listed = candidates
            .iter()
            .take_while(|it| self.excluded(it).is_none());
        let listed: Vec<Candidate> = listed.copied().collect();
        let by_owner = candidates
            .iter()
            .any(|it| self.excluded(it) == Some(Rule::Owner));
        let mut explained = Vec::new();
        explained.extend(directory.map(|node| Explained {
            content: None,
            has_name: true,
            rule: if candidates.is_empty() {
                Rule::Only
            } else {
                Rule::Directory
            },
            first_author: id(node),
        }));
        for (at, it) in candidates.iter().enumerate() {
            let beaten = || listed[1..].iter().map(|other| self.ahead_by(it, other));
            let rule = match self.excluded(it) {
                Some(rule) => rule,
                None if directory.is_some() => Rule::Directory,
                None if at > 0 => self.ahead_by(&listed[0], it),
                None if by_owner => Rule::Owner,
                None if beaten().any(|rule| rule == Rule::Served) => Rule::Served,
                None if beaten().any(|rule| rule == Rule::AuthorLives) => Rule::AuthorLives,
                None => beaten().next().unwrap_or(Rule::Only),
            };
            let mut authors = self.candidates();
            authors.retain(|other| other.content == it.content);
            authors.sort_by_key(|other| self.rank(other));
            explained.push(Explained {
                content: Some(it.content),
                has_name: at == 0 && directory.is_none() && self.excluded(it).is_none(),
                rule,
                first_author: id(authors[0].author),
            });
        }
        explained
    }
}

fn content_of(kind: &Kind) -> Option<Content> {
    let texts = ["one", "two", "three"];
    match kind {
        Kind::File { hash: of, .. } => {
            let text = texts.into_iter().find(|text| hash(text) == *of);
            text.map(Content::File)
        }
        Kind::Symlink { target } => {
            let text = texts
                .into_iter()
                .find(|text| text.as_bytes() == &target[..]);
            text.map(Content::Link)
        }
        Kind::Directory => None,
    }
}

proptest! {
    #[test]
    fn order_reasons_and_listing_of_a_name_agree_with_an_independent_model(contest in contests()) {
        let view = contest.watcher().view();
        let versions = view.versions(&path("n"));
        let explained = versions.iter().map(|it| Explained {
            content: content_of(&it.kind),
            has_name: it.has_name,
            rule: it.rule,
            first_author: it.authors[0].0,
        });
        let explained: Vec<Explained> = explained.collect();
        prop_assert_eq!(&explained, &contest.explained());
        let shown = view.lookup(&path("n"));
        let named = explained.iter().find(|it| it.has_name);
        prop_assert_eq!(shown.is_some(), named.is_some());
        prop_assert_eq!(
            shown.and_then(|found| content_of(&found.kind)),
            named.and_then(|it| it.content)
        );
        let mut listed: Vec<String> = names(&view);
        listed.retain(|name| !name.starts_with("n/"));
        let mut told: Vec<String> = versions
            .iter()
            .filter_map(|it| it.listed_as.as_ref().map(ToString::to_string))
            .collect();
        told.sort();
        prop_assert_eq!(listed, told);
        for it in &versions {
            let is_excluded = matches!(it.rule, Rule::Owner | Rule::Clock | Rule::Givable);
            prop_assert_eq!(it.has_name, it.listed_as == Some(path("n")));
            prop_assert!(!is_excluded || it.has_name || it.listed_as.is_none());
        }
    }
}
