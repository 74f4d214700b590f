//! What is found out though the kernel did not say it by its name, or it could not be looked at.

use super::*;
use crate::path::HIDDEN_ROOT;

#[test]
fn a_name_that_is_left_out_for_what_it_is_called_is_left_out_no_more_once_it_is_gone() {
    let mut rounds = Rounds::new();
    let hidden = rounds.at(std::str::from_utf8(HIDDEN_ROOT).unwrap());
    let left_out = |rounds: &Rounds| rounds.shared.lock().shares[&0].left_out.len();
    fs::create_dir(&hidden).unwrap();
    rounds.run();
    assert_eq!(left_out(&rounds), 1);
    fs::remove_dir(&hidden).unwrap();
    rounds.run();
    assert_eq!(left_out(&rounds), 0);
}
