//! Rows of figures with their goals.

use std::time::Duration;

use crate::figures::quantile;

/// Prints the names of the columns.
pub(crate) fn head() {
    println!(
        "{:<52} {:>8} {:>10} {:>10} {:>10}  goal",
        "trial", "count", "p50 ms", "p99 ms", "max ms"
    );
}

/// Prints a row for many durations and the limit of the longest.
pub(crate) fn times(what: &str, took: &[Duration], goal_ms: f64) {
    let took: Vec<f64> = took.iter().map(|t| t.as_secs_f64() * 1e3).collect();
    let [half, most, longest] = [0.5, 0.99, 1.0].map(|share| quantile(&took, share));
    println!(
        "{what:<52} {:>8} {half:>10.3} {most:>10.3} {longest:>10.3}  <= {goal_ms} ms: {}",
        took.len(),
        verdict(longest <= goal_ms)
    );
}

/// Prints one figure and its limit.
pub(crate) fn amount(what: &str, found: f64, unit: &str, goal: f64) {
    println!(
        "{what:<52} {found:>8.1} {unit}  <= {goal}: {}",
        verdict(found <= goal)
    );
}

/// Prints a note to the figures.
pub(crate) fn note(text: &str) {
    println!("  {text}");
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
