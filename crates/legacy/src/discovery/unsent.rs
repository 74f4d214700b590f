//! The questions that are not sent yet. Users take turns: one of each, in the order of arrival.
//!
//! The rate of questions is limited for all users together. Without turns, the hundreds of
//! questions of one user would delay those of another by seconds.

use std::collections::VecDeque;

use crate::wire::discovery::Name;

/// Questions that wait to be sent. One that was sent in the turn of another user, or that ended,
/// stays until it is skipped.
#[derive(Default)]
pub(super) struct UnsentQuestions {
    /// The waiting questions of each user that has some. The first user is the next.
    turns: VecDeque<(u32, VecDeque<Name>)>,
}

impl UnsentQuestions {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Adds a question behind the others of this user.
    pub(super) fn push(&mut self, uid: u32, name: Name) {
        match self.turns.iter_mut().find(|(user, _)| *user == uid) {
            Some((_, questions)) => questions.push_back(name),
            None => self.turns.push_back((uid, VecDeque::from([name]))),
        }
    }

    /// Returns the next question, without taking it.
    pub(super) fn next(&self) -> Option<&Name> {
        let (_, questions) = self.turns.front()?;
        questions.front()
    }

    /// Takes the next question. The turn passes to the next user.
    pub(super) fn take(&mut self) -> Option<Name> {
        let (uid, mut questions) = self.turns.pop_front()?;
        let next = questions.pop_front();
        if !questions.is_empty() {
            self.turns.push_back((uid, questions));
        }
        next
    }

    /// Removes the next question, which was sent or has ended. The user keeps its turn.
    pub(super) fn skip(&mut self) {
        if let Some((_, questions)) = self.turns.front_mut() {
            questions.pop_front();
            if questions.is_empty() {
                self.turns.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(unsent: &mut UnsentQuestions) -> String {
        let name = unsent.take().unwrap();
        String::from_utf8(name.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn users_take_turns_and_a_returning_one_is_the_last() {
        let mut unsent = UnsentQuestions::default();
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        for (uid, text) in [(1, "a"), (1, "b"), (1, "c"), (2, "d"), (3, "e")] {
            unsent.push(uid, name(text));
        }
        assert_eq!([take(&mut unsent), take(&mut unsent)], ["a", "d"]);
        unsent.push(2, name("f"));
        unsent.skip();
        assert_eq!(unsent.next(), Some(&name("b")), "e was skipped");
        let rest: Vec<String> = (0..3).map(|_| take(&mut unsent)).collect();
        assert_eq!(rest, ["b", "f", "c"]);
        assert!(unsent.is_empty() && unsent.take().is_none());
    }
}
