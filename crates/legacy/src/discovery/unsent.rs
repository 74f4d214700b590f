//! The questions that are not sent yet. Users take turns: one of each, in the order of arrival.
//!
//! The rate of questions is limited for all users together. Without turns, the hundreds of
//! questions of one user would delay those of another by seconds.

use std::collections::VecDeque;

use crate::wire::discovery::Name;

/// Questions that wait to be sent. Their number is limited by that of the open questions.
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

    /// Removes the next question, which needs no answer any more. The user keeps its turn.
    pub(super) fn skip(&mut self) {
        if let Some((_, questions)) = self.turns.front_mut() {
            questions.pop_front();
            if questions.is_empty() {
                self.turns.pop_front();
            }
        }
    }
}
