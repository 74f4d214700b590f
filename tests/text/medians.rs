//! The medians and other quantiles that the benches print are correct.

#[path = "../../benches/versus/figures.rs"]
#[expect(dead_code, reason = "what the benches print of it is not tried here")]
mod figures;

use figures::{median, quantile};

#[test]
fn the_median_of_an_even_number_of_rounds_is_unbiased() {
    assert_eq!(median(&[931.0, 799.0, 916.0, 513.0]), 857.5);
    assert_eq!(median(&[2.0, 1.0]), 1.5);
}

#[test]
fn the_median_of_an_odd_number_is_the_middle_one() {
    assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median(&[4.0]), 4.0);
}

#[test]
fn a_quantile_lies_between_its_neighbours() {
    let values: Vec<f64> = (0..=100).map(f64::from).collect();
    assert_eq!(quantile(&values, 0.99), 99.0);
    assert_eq!(quantile(&values, 1.0), 100.0);
    assert_eq!(quantile(&values, 0.0), 0.0);
    assert_eq!(quantile(&[0.0, 10.0], 0.25), 2.5);
}

#[test]
fn without_values_there_is_no_quantile() {
    assert!(median(&[]).is_nan());
}
