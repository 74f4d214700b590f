//! The conditions of a node: states that an operator should end. [`Condition`] lists all of them;
//! [`StandingConditions`] holds the conditions that stand now.
//!
//! A condition begins, stands and ends. Its begin and its end are events, and the journal has a
//! line for each. `p2pfs status`, `p2pfs doctor` and the metrics read [`StandingConditions`]. An
//! incident, such as an offence of a peer, has no end. It is a warning of the
//! [`EventLog`](super::EventLog) instead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::events::Audience;

/// Maximum number of different causes of one standing condition that are told. A condition whose
/// cause changes all the time does not fill the journal.
const CAUSES_TOLD_MAX: usize = 8;

/// Maximum number of subjects for which one condition stands at once. Findings for further subjects
/// are not recorded. A share may have very many names with trouble.
pub(crate) const SUBJECTS_MAX: usize = 20;

/// Cause of the findings about the gap between this machine's clock and another one.
/// [`Condition::ClockBehind`] explains all of them.
pub const CLOCK_CAUSE: &str = "clock";

/// How grave a condition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The node works, but its owner should know.
    Warning,
    /// A part of the node does not work. `p2pfs doctor` fails.
    Error,
}

/// The texts of one condition.
#[derive(Clone, Copy, Debug)]
pub struct ConditionText {
    /// Name in metrics, events and the manual.
    pub name: &'static str,
    /// How grave it is.
    pub severity: Severity,
    /// The part of the node that the condition concerns. `p2pfs doctor` shows the condition as a
    /// check with this name, unless another check of it reports the condition in more detail.
    pub part: &'static str,
    /// The condition in general, for the manual and the catalog of messages.
    pub sentence: &'static str,
    /// The remedy, unless the standing condition names a better one.
    pub remedy: &'static str,
    /// Message ID of its lines in the journal.
    pub message_id: &'static str,
}

/// Declares the conditions, one row each.
macro_rules! conditions {
    ($($variant:ident $name:literal $severity:ident $part:literal $message_id:literal
       $sentence:literal $remedy:literal;)*) => {
        /// A state that an operator should end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Condition {
            $(#[doc = $sentence] $variant,)*
        }

        impl Condition {
            /// All conditions, in the order of `p2pfs status`.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the texts of the condition.
            pub const fn text(self) -> ConditionText {
                match self {
                    $(Self::$variant => ConditionText {
                        name: $name,
                        severity: Severity::$severity,
                        part: $part,
                        sentence: $sentence,
                        remedy: $remedy,
                        message_id: $message_id,
                    },)*
                }
            }
        }
    };
}

conditions! {
    StateGone "state-gone" Error "state" "87994199751f45b88359988f2ca64fda"
        "The state directory was emptied, moved or replaced while p2pfs runs."
        "put it back before the next restart, or this becomes a new node, which has \
         to be invited";
    StateNotStored "state-not-stored" Error "state" "d24e85ba5ea345679c082651a138ecb1"
        "The state directory's disk refuses writes, most often because it is full."
        "free some of the state directory's disk, or let the daemon's user write \
         there; until then a restart loses what is new";
    StateFull "state-full" Warning "state" "2efe01e0c722486b88ef06adaf4f0b9a"
        "The disk of the state directory has less than 1 MiB left."
        "free some of the state directory's disk, or let the daemon's user write \
         there; until then a restart loses what is new";
    CacheGone "cache-gone" Warning "cache" "fc16aed670414356bda0cef711d2c164"
        "The cache directory was emptied, moved or replaced while p2pfs runs."
        "put it back, or restart p2pfs, which begins a new one, without pins; reads \
         go on meanwhile";
    CacheFull "cache-full" Warning "cache" "f70d7fb1807242b68724b9b4e585d5e2"
        "The disk of the cache has no room left, even if everything evictable is \
         evicted."
        "free some of that disk, or name another with cache_dir; reads go on uncached";
    CacheNotStored "cache-not-stored" Warning "cache" "412c6918022b42ceb4f15bdae9db6306"
        "The disk of the cache refuses writes."
        "check that disk, or name another with cache_dir; reads go on meanwhile";
    KeepFull "keep-full" Warning "keep" "a1d5c01b13ee4506a5fa55413f9f3f0b"
        "Files that this node is to keep are not kept, because its budget, its cache or its \
         disk has no room for them."
        "raise keep.budget or cache.size, or keep fewer paths; other keepers take over what \
         they have room for";
    CacheDamaged "cache-damaged" Error "cache" "3e1e981e2a02428ba52db0203e38526f"
        "Bytes of the cache did not fit their hash or could not be read. They were \
         dropped and are fetched again. The condition ends an hour after the last \
         damage, or when p2pfs cache verify finds none."
        "check that disk (smartctl -a), then run p2pfs cache verify";
    PeersDown "peers-down" Warning "peers" "22ee2bf052874a02b87c961999c69f2d"
        "No other node answers, although some are known."
        "start p2pfs on another node, or mend the network: p2pfs doctor looks for the \
         reason";
    PeerMute "peer-mute" Warning "peer" "b0781f3c2fa6469c97218289a69c8cc1"
        "A node is alive, but left the last questions for files without an answer. The \
         condition ends with its next answer."
        "a firewall that lets one direction through, or a path that loses large packets \
         (a VPN: lower the MTU): p2pfs doctor looks for the reason";
    NoMulticast "no-multicast" Warning "mdns" "c1c6cb81945f49a79c7e3b8677b41fd4"
        "Nodes of the local network are not found by themselves."
        "name a seed, or connect this machine to a network";
    ClockBehind "clock-behind" Error "clock" "d0cf40a03070478893005caa19718106"
        "The clock of this machine is behind."
        "set the clock: timedatectl set-ntp true";
    ClockAhead "clock-ahead" Error "clock" "5dae5d08ad7e4fc48b0628611033203a"
        "The clock of another node is ahead of this machine's, and versions with a \
         later time win."
        "set whichever is wrong: timedatectl set-ntp true";
    KeyCopied "key-copied" Error "key" "4c6984e2fd434f1588cabf99c8323a41"
        "Two machines run with the same key."
        "one machine is a copy of the other. On the copy, the newer machine (on either, if \
         it is unclear which it is): stop p2pfs, remove its state directory and start \
         p2pfs again. Then let it join by an invitation (p2pfs invite --name NAME on a \
         member; not needed with a secret file), and add its shares again";
    ShareProblem "share-problem" Warning "share" "c03a8ff4cc9d42758ff89451419a0735"
        "Something of a share is not offered, or is seen late."
        "see p2pfs share";
    ShareUnreadable "share-unreadable" Error "share" "cc30c1030aa449ecbb39231f1ed798f9"
        "The folder of a share is gone or cannot be read, so nothing in the share is \
         offered."
        "make it, or let the daemon's user read it";
    ShareSilent "share-silent" Error "share" "81b3a107b5d44570afb2e541c09fded9"
        "The disk of a share does not answer."
        "look at that disk, or at the server that it is of; or stop sharing it";
    FormerNames "former-names" Warning "readers" "b3d1b6c5a8f04e0f9c1b7a52e46d9083"
        "Settings name a node by a name that was given in an earlier cluster. In this \
         cluster the name means no node until it is confirmed."
        "write the node's key instead, or confirm the name with p2pfs share add DIR \
         --readers NAME";
    ShareMissing "share-missing" Error "share" "f576ef0b66cf49d49cc7c37378e2d2e9"
        "A configured share cannot be added."
        "make the folder, let the daemon's user read it, or stop sharing it";
    InboxUnusable "inbox-unusable" Warning "inbox" "ae1629497e7246b5be52ff3a67e9a452"
        "Files that other nodes push are not taken."
        "name another folder as inbox.dir";
    InboxFull "inbox-full" Warning "inbox" "2dd03f1c6f0a4c4c8d5a7e9b16f2c385"
        "The inbox refused a file because it has no room. The condition ends when there \
         is room for that file."
        "move files out of the inbox, or raise budget of [inbox] and restart p2pfs";
    FolderGone "folder-gone" Error "mount" "9a4cf2be1e0b4dd8a0f6f3f4b9a7c551"
        "The folder is not mounted."
        "mount it again (mount -t p2pfs none DIR), or restart p2pfs";
    NotWritable "not-writable" Warning "mount" "5b8de1c2a7f94a63b4c0d97e61f3a852"
        "The mount cannot be made writable or read-only, as the shares ask."
        "restart p2pfs";
    WriteFull "write-full" Warning "mount" "c41f0b7d92e84c6fa5d3e1780b6a9f25"
        "Programs cannot write into the mount, because a writable share has no room: its disk is \
         full, or at floor of [write], or its files are at budget of [write]."
        "free some of that disk, remove files, or raise budget or lower floor of [write] and \
         restart p2pfs";
    ConfigurationRefused "configuration-refused" Error "configuration" "5d0e8f43a1c94c2c9f8c1f6a2b7f4e10"
        "The configuration was read again and refused. The one before is in force."
        "mend it, and have it read again (SIGHUP; a service by systemctl reload)";
    RestartNeeded "restart-needed" Warning "configuration" "6b2f77c0d0b64d5aa9b3c64ad16a2e38"
        "Changed settings need a restart."
        "restart p2pfs (systemctl restart p2pfs), or set them back and reload it";
    Expelled "expelled" Error "membership" "afa7dfe7429e4be8b9704f21db81f545"
        "This node was expelled from its cluster."
        "ask a member for an invitation";
    CutOff "cut-off" Error "network" "c999073a1ebc47138a19d6a7589aebe7"
        "Something cuts this node off from others: a seed, a firewall or a clock."
        "do what the line says";
    Unreached "unreached" Warning "network" "dc877da2383a46e98c65fe8690782e6e"
        "No connection to this node, or to another living one, can be made. This is normal \
         behind a NAT. Only nodes that a node behind a NAT can dial read its files."
        "fine if no other node is behind a NAT; else do what the line says";
    TokenWaits "token-waits" Warning "token" "ed80cb674fd94e8c8fcd91bad30ea30e"
        "The token that was left before the start could not be used, or not yet. The condition ends \
         when this node joins."
        "start the node that made it, or ask for another token";
    NoMetrics "no-metrics" Warning "metrics" "b1f4b04126224f22930c59a03b9caa90"
        "The metrics cannot be offered at metrics.listen."
        "set metrics.listen to a free address, and restart";
    NoPassthrough "no-passthrough" Warning "mount" "dba1edce49db41a6aa798977517e10a6"
        "Files are read through the daemon, not by the kernel itself."
        "all works, but local reads are slower; to speed them up, use Linux 6.9 or newer, and \
         give the daemon CAP_SYS_ADMIN or run its mount broker";
}

/// The details of a standing condition: its sentence, its remedy and the users that may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The sentence.
    pub found: String,
    /// The remedy, if it is another than that of the table.
    pub remedy: Option<String>,
    /// The users that may see `found`.
    pub audience: Audience,
    /// The sentence for all other users, if only the owner may see `found`.
    pub for_others: Option<String>,
    /// When the condition ends by itself; `None` if it does not.
    pub until: Option<SystemTime>,
    /// The cause, if `found` has figures that change while the cause stays.
    pub cause: Option<String>,
}

impl Finding {
    /// Returns a finding that every user of this machine may see.
    pub fn new(found: impl Into<String>) -> Self {
        Self {
            found: found.into(),
            remedy: None,
            audience: Audience::Everybody,
            for_others: None,
            until: None,
            cause: None,
        }
    }

    /// Returns the finding of a text: the sentence, and after the first semicolon the remedy, if
    /// the text has a semicolon.
    pub fn with_own_remedy(said: &str) -> Self {
        match said.split_once("; ") {
            Some((found, remedy)) => Self::new(found).remedy(remedy),
            None => Self::new(said),
        }
    }

    /// Replaces the remedy of the table.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// Restricts the finding to the owner of the node, because it names local files.
    #[must_use]
    pub fn for_owner(self) -> Self {
        Self {
            audience: Audience::Owner,
            ..self
        }
    }

    /// Restricts the sentence to the owner of the node. Other users see `for_others` instead.
    #[must_use]
    pub fn for_owner_else(self, for_others: impl Into<String>) -> Self {
        Self {
            for_others: Some(for_others.into()),
            ..self.for_owner()
        }
    }

    /// Names the cause of a sentence with figures. A finding with other figures and the same cause
    /// is not told again.
    #[must_use]
    pub fn of_cause(self, cause: impl Into<String>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..self
        }
    }

    /// Returns the text that identifies the cause.
    fn cause(&self) -> &str {
        self.cause.as_deref().unwrap_or(&self.found)
    }

    /// Lets the condition end by itself.
    #[must_use]
    pub fn until(self, until: SystemTime) -> Self {
        Self {
            until: Some(until),
            ..self
        }
    }
}

/// A condition that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingCondition {
    /// The condition.
    pub condition: Condition,
    /// The share, key, seed or other thing that the condition concerns. Empty for a condition that
    /// can stand only once.
    pub subject: String,
    /// The details.
    pub finding: Finding,
}

impl StandingCondition {
    /// Returns what ends the condition.
    pub fn remedy(&self) -> &str {
        let own = self.finding.remedy.as_deref();
        own.unwrap_or(self.condition.text().remedy)
    }

    /// Returns whether a part of the node does not work.
    pub fn is_error(&self) -> bool {
        self.condition.text().severity == Severity::Error
    }

    /// Returns the sentence and the remedy in one line.
    pub fn sentence(&self) -> String {
        format!("{}; {}", self.finding.found, self.remedy())
    }

    /// Returns the condition as these users may see it, or `None` if they may not.
    pub fn seen_by(mut self, audience: Audience) -> Option<Self> {
        if audience == Audience::Everybody && self.finding.audience == Audience::Owner {
            self.finding.found = self.finding.for_others.take()?;
            self.subject.clear();
        }
        Some(self)
    }
}

/// A begin, a new cause or an end of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Begun(StandingCondition),
    Explained(StandingCondition),
    Ended(StandingCondition),
}

/// The latest finding of a condition, and the causes that were told since the condition began.
#[derive(Debug)]
struct LatestFinding {
    finding: Finding,
    told: BTreeSet<String>,
}

impl LatestFinding {
    fn new(finding: Finding) -> Self {
        let told = BTreeSet::from([finding.cause().to_owned()]);
        Self { finding, told }
    }

    /// Replaces the finding. Returns whether it has a cause that is to be told.
    fn update(&mut self, finding: Finding) -> bool {
        let has_room = self.told.len() < CAUSES_TOLD_MAX;
        let is_new = has_room && self.told.insert(finding.cause().to_owned());
        self.finding = finding;
        is_new
    }
}

/// The conditions that stand, by condition and subject.
#[derive(Debug, Default)]
pub(super) struct StandingConditions(BTreeMap<(Condition, String), LatestFinding>);

impl StandingConditions {
    /// Records a finding. Returns the begin if the condition did not stand for this subject before,
    /// and the new cause if it stood with another one. Each cause is returned once. A new subject
    /// beyond [`SUBJECTS_MAX`] is not recorded. If another condition explains the finding, ends the
    /// condition of this subject instead.
    pub(super) fn begin(
        &mut self,
        condition: Condition,
        subject: &str,
        finding: Finding,
    ) -> Option<Turn> {
        if self.is_explained(condition, &finding) {
            return self.end(condition, subject);
        }
        let key = (condition, subject.to_owned());
        let standing = StandingCondition {
            condition,
            subject: subject.to_owned(),
            finding: finding.clone(),
        };
        if let Some(latest) = self.0.get_mut(&key) {
            let is_to_be_told = latest.update(finding);
            return is_to_be_told.then_some(Turn::Explained(standing));
        }
        if self.of(condition).count() >= SUBJECTS_MAX {
            return None;
        }
        self.0.insert(key, LatestFinding::new(finding));
        Some(Turn::Begun(standing))
    }

    /// Returns whether a finding has its cause in another condition that stands. That condition
    /// tells the remedy.
    fn is_explained(&self, condition: Condition, finding: &Finding) -> bool {
        let is_of_a_clock = match condition {
            Condition::ClockAhead => true,
            Condition::CutOff => finding.cause.as_deref() == Some(CLOCK_CAUSE),
            _ => false,
        };
        is_of_a_clock && self.stands(Condition::ClockBehind, "")
    }

    /// Ends the conditions that another condition explains, which has begun after them.
    pub(super) fn end_explained(&mut self) -> Vec<Turn> {
        let all: Vec<_> = self.all().collect();
        let explained = all
            .into_iter()
            .filter(|it| self.is_explained(it.condition, &it.finding));
        let explained: Vec<_> = explained.collect();
        let ended = explained
            .iter()
            .filter_map(|it| self.end(it.condition, &it.subject));
        ended.collect()
    }

    /// Ends a condition of one subject.
    pub(super) fn end(&mut self, condition: Condition, subject: &str) -> Option<Turn> {
        let subject = subject.to_owned();
        let latest = self.0.remove(&(condition, subject.clone()))?;
        Some(Turn::Ended(StandingCondition {
            condition,
            subject,
            finding: latest.finding,
        }))
    }

    /// Makes these the only findings of a condition that stand. New subjects are added only up to
    /// [`SUBJECTS_MAX`].
    pub(super) fn replace(
        &mut self,
        condition: Condition,
        found: Vec<(String, Finding)>,
    ) -> Vec<Turn> {
        let before: Vec<_> = self.of(condition).map(|it| it.subject).collect();
        let is_over = |subject: &&String| !found.iter().any(|(now, _)| now == *subject);
        let over: Vec<_> = before.iter().filter(is_over).collect();
        let ended = over.into_iter().filter_map(|it| self.end(condition, it));
        let mut turns: Vec<_> = ended.collect();
        for (subject, finding) in found {
            turns.extend(self.begin(condition, &subject, finding));
        }
        turns
    }

    /// Ends the conditions whose time is over.
    pub(super) fn expire(&mut self, now: SystemTime) -> Vec<Turn> {
        let is_over = |latest: &LatestFinding| {
            let until = latest.finding.until;
            until.is_some_and(|until| until <= now)
        };
        let over = self.0.iter().filter(|(_, latest)| is_over(latest));
        let over: Vec<_> = over.map(|(key, _)| key.clone()).collect();
        let ended = over
            .iter()
            .filter_map(|(it, subject)| self.end(*it, subject));
        ended.collect()
    }

    /// Returns all that stand, in the order of the table.
    pub(super) fn all(&self) -> impl Iterator<Item = StandingCondition> {
        self.0
            .iter()
            .map(|((condition, subject), latest)| StandingCondition {
                condition: *condition,
                subject: subject.clone(),
                finding: latest.finding.clone(),
            })
    }

    /// Returns whether a condition stands for a subject.
    pub(super) fn stands(&self, condition: Condition, subject: &str) -> bool {
        self.0.contains_key(&(condition, subject.to_owned()))
    }

    /// Returns the findings of one condition.
    pub(super) fn of(&self, condition: Condition) -> impl Iterator<Item = StandingCondition> {
        self.all().filter(move |it| it.condition == condition)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn subjects(turns: &[Turn]) -> Vec<(bool, &str)> {
        fn subject(turn: &Turn) -> (bool, &str) {
            match turn {
                Turn::Begun(it) | Turn::Explained(it) => (true, it.subject.as_str()),
                Turn::Ended(it) => (false, it.subject.as_str()),
            }
        }
        turns.iter().map(subject).collect()
    }

    #[test]
    fn a_condition_begins_once_and_ends_once() {
        let mut standing = StandingConditions::default();
        let full = |found: &str| Finding::new(found).of_cause("full");
        let begun = standing.begin(Condition::StateFull, "", full("2 KiB are free"));
        assert!(matches!(begun, Some(Turn::Begun(_))));
        let again = full("1 KiB is free");
        assert_eq!(standing.begin(Condition::StateFull, "", again), None);
        let now: Vec<_> = standing.all().collect();
        assert_eq!(now.len(), 1);
        assert!(now[0].sentence().starts_with("1 KiB is free; free some"));
        let ended = standing.end(Condition::StateFull, "");
        assert!(matches!(ended, Some(Turn::Ended(_))));
        assert_eq!(standing.end(Condition::StateFull, ""), None);
    }

    #[test]
    fn each_cause_of_a_standing_condition_is_told_once_and_only_some_of_many() {
        let mut standing = StandingConditions::default();
        let mut told = |cause: &str| standing.begin(Condition::FolderGone, "", Finding::new(cause));
        assert!(matches!(told("it is gone"), Some(Turn::Begun(_))));
        let more_precise = told("the broker ended");
        assert!(
            matches!(more_precise, Some(Turn::Explained(it)) if it.finding.found == "the broker ended")
        );
        assert_eq!(told("it is gone"), None);
        assert_eq!(told("the broker ended"), None);
        let causes = (0..100).map(|number| told(&format!("cause {number}")));
        assert_eq!(causes.flatten().count(), CAUSES_TOLD_MAX - 2);
        assert_eq!(told("cause 99"), None);
        assert_eq!(standing.all().next().unwrap().finding.found, "cause 99");
    }

    #[test]
    fn replaced_findings_end_and_only_new_ones_begin() {
        let mut standing = StandingConditions::default();
        let found = |names: &[&str]| {
            let each = names.iter();
            each.map(|it| ((*it).to_owned(), Finding::new("no answer")))
                .collect::<Vec<_>>()
        };
        standing.replace(Condition::ShareSilent, found(&["/a", "/b"]));
        let turns = standing.replace(Condition::ShareSilent, found(&["/b", "/c"]));
        assert_eq!(subjects(&turns), [(false, "/a"), (true, "/c")]);
        assert_eq!(standing.replace(Condition::ShareSilent, vec![]).len(), 2);
    }

    #[test]
    fn a_condition_with_an_end_expires_then() {
        let mut standing = StandingConditions::default();
        let end = UNIX_EPOCH + Duration::from_secs(10);
        let damaged = Finding::new("damage").until(end);
        standing.begin(Condition::CacheDamaged, "", damaged);
        assert!(standing.expire(end - Duration::from_secs(1)).is_empty());
        assert_eq!(standing.expire(end).len(), 1);
        assert_eq!(standing.all().count(), 0);
    }

    #[test]
    fn a_condition_has_a_bounded_number_of_subjects() {
        let mut standing = StandingConditions::default();
        for number in 0..SUBJECTS_MAX + 5 {
            let subject = format!("/share/{number}");
            standing.begin(Condition::ShareProblem, &subject, Finding::new("special"));
        }
        assert_eq!(standing.of(Condition::ShareProblem).count(), SUBJECTS_MAX);
        assert!(
            standing
                .begin(Condition::StateFull, "", Finding::new("full"))
                .is_some()
        );
    }

    #[test]
    fn a_clock_that_is_years_behind_is_the_only_condition_about_clocks() {
        let mut standing = StandingConditions::default();
        let gap = || Finding::new("20 years behind it").of_cause(CLOCK_CAUSE);
        let closed = || Finding::new("a firewall is closed");
        standing.begin(Condition::ClockAhead, "one", gap());
        standing.begin(Condition::CutOff, "clock of one", gap());
        standing.begin(Condition::CutOff, "peer two", closed());
        standing.begin(Condition::CutOff, "seed three", closed());
        standing.begin(Condition::ClockBehind, "", Finding::new("far behind"));
        let ended = standing.end_explained();
        assert_eq!(subjects(&ended), [(false, "one"), (false, "clock of one")]);
        // The cause of the silence of a seed shows later.
        let turns = standing.begin(Condition::CutOff, "seed three", gap());
        assert_eq!(subjects(turns.as_slice()), [(false, "seed three")]);
        let found = [("clock of one", gap()), ("peer two", closed())];
        let found = found.map(|(subject, finding)| (subject.to_owned(), finding));
        assert_eq!(standing.replace(Condition::CutOff, found.to_vec()), []);
        assert!(
            standing
                .begin(Condition::ClockAhead, "one", gap())
                .is_none()
        );
        let stand: Vec<_> = standing.all().map(|it| it.condition).collect();
        assert_eq!(stand, [Condition::ClockBehind, Condition::CutOff]);
        standing.end(Condition::ClockBehind, "");
        let turns = standing.replace(Condition::CutOff, found.to_vec());
        assert_eq!(subjects(&turns), [(true, "clock of one")]);
    }

    #[test]
    fn names_and_message_ids_are_unique_and_well_formed() {
        let texts = Condition::ALL.iter().map(|it| it.text());
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        for text in texts {
            assert!(names.insert(text.name), "{}", text.name);
            assert!(ids.insert(text.message_id), "{}", text.name);
            let id = text.message_id;
            assert!(id.len() == 32 && id.bytes().all(|it| it.is_ascii_hexdigit()));
            assert!(text.sentence.ends_with('.') && !text.remedy.ends_with('.'));
        }
    }
}
