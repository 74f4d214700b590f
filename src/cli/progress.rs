//! Progress bars on standard error, if that is a terminal.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

/// Template for copied bytes: amount, rate and remaining time.
const COPIED: &str = "{bar:32} {percent:>3}% {binary_bytes} of {binary_total_bytes} \
                      {binary_bytes_per_sec} {eta}";
/// Template for work on the cache: amount, rate and remaining time. The message is the verb, such
/// as `checked`.
const KEPT: &str = "{bar:14} {percent:>3}% {msg} {binary_bytes} of {binary_total_bytes}, \
                    {binary_bytes_per_sec}, {eta} left";
/// Template for a share that is being read. The message counts its files.
const READ: &str = "{bar:4} {msg}, {binary_bytes} of {binary_total_bytes} read, \
                    {binary_bytes_per_sec}, {eta} left";

pub(super) fn of_copied(size_bytes: u64) -> ProgressBar {
    bar(size_bytes, COPIED)
}

pub(super) fn of_kept(verb: &'static str) -> ProgressBar {
    bar(0, KEPT).with_message(verb)
}

pub(super) fn of_read() -> ProgressBar {
    bar(0, READ)
}

fn bar(total_bytes: u64, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(total_bytes).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_template_is_valid() {
        for template in [COPIED, KEPT, READ] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
