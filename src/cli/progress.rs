//! Progress bars on standard error, if that is a terminal.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressState, ProgressStyle};

/// Time that a bar measures before it shows a rate and the remaining time. Earlier figures are of
/// too few steps: the first one alone can show thousands of times the rate.
const MEASURED_MIN: Duration = Duration::from_millis(500);

/// Template for copied bytes: amount, rate and remaining time.
const COPIED: &str = "{bar:20} {percent:>3}% {binary_bytes} of \
                      {binary_total_bytes}{speed}";
/// Template for work on the cache: amount, rate and remaining time. The message is the verb, such
/// as `checked`.
const KEPT: &str = "{bar:14} {percent:>3}% {msg} {binary_bytes} of \
                    {binary_total_bytes}{speed}";
/// Template for a share that is being read. The message counts its files.
const READ: &str = "{bar:4} {msg}, {binary_bytes} of {binary_total_bytes} \
                    read{speed}";

pub(super) fn of_copied(size_bytes: u64) -> ProgressBar {
    bar(size_bytes, COPIED)
}

pub(super) fn of_kept(verb: &'static str) -> ProgressBar {
    bar(0, KEPT).with_message(verb)
}

pub(super) fn of_read() -> ProgressBar {
    bar(0, READ)
}

/// Shows the progress of work whose length was unknown when the bar was created. Bytes that are done
/// at the first report count as done, but not for the rate and the remaining time.
pub(super) fn show(bar: &ProgressBar, done_bytes: u64, total_bytes: u64) {
    let begins = bar.length() == Some(0);
    bar.update(|state| {
        state.set_len(total_bytes);
        state.set_pos(done_bytes);
    });
    if begins && done_bytes > 0 {
        bar.reset_elapsed();
    }
}

fn bar(total_bytes: u64, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(total_bytes).with_style(style.with_key("speed", write_speed))
}

/// Writes the rate and the remaining time of a bar, once they are known.
fn write_speed(state: &ProgressState, out: &mut dyn fmt::Write) {
    if state.elapsed() < MEASURED_MIN || state.pos() == 0 {
        return;
    }
    let rate = BinaryBytes(state.per_sec() as u64);
    let _infallible = write!(out, ", {rate}/s, {:#} left", HumanDuration(state.eta()));
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressDrawTarget;

    use super::*;

    #[test]
    fn work_done_before_counts_as_done_and_not_for_the_rate() {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        show(&bar, 1 << 40, 2 << 40);
        assert_eq!((bar.position(), bar.length()), (1 << 40, Some(2 << 40)));
        assert_eq!(bar.per_sec(), 0.0);
        assert!(bar.elapsed() < MEASURED_MIN);
    }

    #[test]
    fn each_template_is_valid() {
        for template in [COPIED, KEPT, READ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
