//! Table of results, for a terminal of 80 columns.

use std::time::Duration;

use super::{
    ScenarioRow, Way,
    paint::{Paint, Tone},
};

/// Rows of one backend.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: &'static str,
    pub(super) description: String,
    pub(super) rows: [ScenarioRow; 2],
}

const HEADER: [[&str; COLUMNS]; 2] = [
    ["", "", "to", "", "", "out of", "", "101", "ready", "flush"],
    [
        "",
        "clients",
        "send",
        "delivered",
        "lost",
        "order",
        "doubled",
        "ms",
        "s",
        "ms",
    ],
];

const COLUMNS: usize = 10;

type Cells = [Cell; COLUMNS];

#[derive(Clone, Debug)]
struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone: Tone::Plain,
        }
    }

    fn toned(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    fn number(number: u64) -> Self {
        Self::new(number.to_string())
    }

    /// Formats a number that should be 0.
    fn fault(number: u64) -> Self {
        Self::number(number).toned(if number == 0 { Tone::Good } else { Tone::Bad })
    }
}

/// Formats the whole table.
pub(super) fn render(groups: &[Group], paint: Paint) -> String {
    let header = HEADER.map(|line| line.map(|text| Cell::new(text).toned(Tone::Dim)));
    let rows: Vec<Vec<Cells>> = groups
        .iter()
        .map(|group| group.rows.iter().map(cells).collect())
        .collect();
    let width = |column: usize| {
        let all = header.iter().chain(rows.iter().flatten());
        all.map(|line| line[column].text.len()).max().unwrap_or(0)
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);

    let mut lines: Vec<_> = header
        .iter()
        .map(|it| aligned(it, &widths, paint))
        .collect();
    for (group, rows) in groups.iter().zip(&rows) {
        let name = paint.paint(Tone::Bold, group.name);
        lines.push(String::new());
        lines.push(format!("{name}: {}", group.description));
        lines.extend(rows.iter().map(|it| aligned(it, &widths, paint)));
    }
    lines.join("\n")
}

fn cells(row: &ScenarioRow) -> Cells {
    let ScenarioRow {
        way,
        clients,
        totals,
        opened,
        ready,
        flush,
        ..
    } = row;
    // Without a proxy there is nothing to flush.
    let flush = match way {
        Way::Straight => String::new(),
        Way::Readygate => flush.map_or_else(|| "–".to_owned(), millis),
    };
    [
        Cell::new(way.name()),
        Cell::number(u64::from(*clients)),
        Cell::number(totals.to_send),
        Cell::number(totals.delivered),
        Cell::fault(totals.lost()),
        Cell::fault(totals.out_of_order),
        Cell::fault(totals.doubled),
        match opened {
            Some(opened) => Cell::new(millis(*opened)),
            None => Cell::new("none").toned(Tone::Bad),
        },
        Cell::new(ready.map_or_else(String::new, seconds)),
        Cell::new(flush),
    ]
}

/// Aligns the first cell to the left and the others to the right of their columns.
fn aligned(line: &Cells, widths: &[usize; COLUMNS], paint: Paint) -> String {
    let mut text = String::new();
    for (index, (Cell { text: cell, tone }, width)) in line.iter().zip(widths).enumerate() {
        let padded = if index == 0 {
            format!("{cell:<width$}")
        } else {
            format!("  {cell:>width$}")
        };
        // Padded before painting, because escape codes have no width.
        text += &paint.paint(*tone, &padded);
    }
    // The last column is empty for some rows.
    text.truncate(text.trim_end().len());
    text
}

/// Formats milliseconds with two significant digits.
fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1e3;
    match millis {
        ..0.995 => format!("{millis:.2}"),
        ..9.95 => format!("{millis:.1}"),
        _ => format!("{millis:.0}"),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::demo::tally::DemoTotals;

    fn group(readygate: DemoTotals) -> Group {
        let row = |way, totals, opened, flush| ScenarioRow {
            way,
            clients: 8,
            totals,
            opened,
            ready: Some(Duration::from_millis(1234)),
            flush,
            failures: BTreeMap::default(),
        };
        let straight = DemoTotals {
            to_send: 400,
            delivered: 107,
            ..DemoTotals::default()
        };
        let micros = |micros| Some(Duration::from_micros(micros));
        Group {
            name: "late handler",
            description: "takes its time".to_owned(),
            rows: [
                row(Way::Straight, straight, None, None),
                row(Way::Readygate, readygate, micros(412), micros(1250)),
            ],
        }
    }

    const FLAWLESS: DemoTotals = DemoTotals {
        to_send: 400,
        delivered: 400,
        doubled: 0,
        out_of_order: 0,
    };

    #[test]
    fn the_table_is_aligned_and_says_what_is_missing() {
        let table = render(&[group(FLAWLESS)], Paint { is_colored: false });

        assert_eq!(
            table,
            "                      to                   out of            101  ready  flush
           clients  send  delivered  lost   order  doubled    ms      s     ms

late handler: takes its time
straight         8   400        107   293       0        0  none   1.23
readygate        8   400        400     0       0        0  0.41   1.23    1.2"
        );
    }

    #[test]
    fn faults_are_red_and_none_is_green_and_only_with_colour() {
        let table = render(
            &[group(DemoTotals {
                doubled: 3,
                ..FLAWLESS
            })],
            Paint { is_colored: true },
        );

        assert!(table.contains("\x1b[31m        3\x1b[0m"), "{table:?}");
        assert!(table.contains("\x1b[32m     0\x1b[0m"), "{table:?}");
    }

    #[test]
    fn times_have_two_significant_digits() {
        let micros = |it| millis(Duration::from_micros(it));

        assert_eq!(
            [
                micros(38),
                micros(994),
                micros(996),
                micros(9940),
                micros(9960)
            ],
            ["0.04", "0.99", "1.0", "9.9", "10"]
        );
        assert_eq!(micros(123_456), "123");
    }
}
