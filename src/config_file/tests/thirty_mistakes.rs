//! A file with more than thirty mistakes, of every kind that there is, and its report.

use super::*;

const FILE: &str = include_str!("thirty_mistakes.toml");
const REPORT: &str = include_str!("thirty_mistakes.txt");

#[test]
fn thirty_mistakes_are_all_reported_word_for_word() {
    let report = report(FILE);

    assert!(report.matches("error: ").count() > 30, "{report}");
    assert_eq!(report, REPORT.trim_end());
}
