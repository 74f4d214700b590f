//! Tests with large shares. Their bounds are many times the measured times, which are printed.

use super::*;

#[test]
fn five_thousand_small_files_are_listed_and_found_again() {
    let mut bench = ShareBench::bare();
    fill(&bench, 5_000);
    bench.start();
    assert_eq!(bench.status().totals.files, 5_000);
    bench.stop();
    bench.start();
    assert_eq!(bench.status().totals.files, 5_000);
}

#[test]
fn a_file_of_64_mib_is_listed_soon_after_its_close() {
    let mut bench = ShareBench::bare();
    bench.config.quiet = PATIENCE * 10;
    bench.start();
    let bytes = vec![7; 64 << 20];
    bench.write("f", &bytes);
    let closed = Instant::now();
    bench.wait_for("listed", |b| b.entry("f").is_some());
    println!("64 MiB: {:?} after the close", closed.elapsed());
    assert!(bench.has("f", &bytes));
}

fn fill(bench: &ShareBench, files: usize) {
    for number in 0..files {
        if number % 1000 == 0 {
            bench.mkdir(&format!("d{}", number / 1000));
        }
        let name = format!("d{}/file-{number:06}.txt", number / 1000);
        bench.write(&name, format!("content of {number}").repeat(20).as_bytes());
        date(&bench.at(&name), 1_000_000 + number as u64);
    }
}
