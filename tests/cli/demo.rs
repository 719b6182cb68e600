//! `readygate demo`: its output.

use crate::support::{run, stderr, stdout};

#[test]
fn the_demo_loses_messages_straight_and_none_through_readygate() {
    let directory = tempfile::tempdir().unwrap();

    let output = run(
        directory.path(),
        &["demo", "--clients", "3", "--messages", "20"],
    );

    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert_eq!(stderr(&output), "");
    assert!(!stdout(&output).contains('\x1b'), "{}", stdout(&output));
    let rows = |way| -> Vec<Vec<&str>> {
        let lines = stdout(&output).lines().map(str::split_whitespace);
        let cells = lines.map(Iterator::collect::<Vec<_>>);
        cells
            .filter(|cells| cells.len() > 6 && cells[0] == way)
            .collect()
    };
    let (straight, readygate) = (rows("straight"), rows("readygate"));
    assert_eq!((straight.len(), readygate.len()), (3, 3));
    for row in readygate {
        // Clients, messages, delivered, lost, out of order, doubled.
        assert_eq!(row[1..7], ["3", "60", "60", "0", "0", "0"], "{row:?}");
    }
    for row in straight {
        assert_ne!(row[4], "0", "{row:?}");
    }
}
