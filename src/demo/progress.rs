//! Progress of the demo: on a terminal a line per backend that is redrawn, elsewhere a line per
//! finished backend.

use std::{
    cell::Cell,
    io::{self, Write},
    rc::Rc,
    time::Duration,
};

use super::{
    Settings, Way,
    paint::{Paint, Tone},
};

/// Interval between redraws.
pub(super) const INTERVAL: Duration = Duration::from_millis(80);

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const BAR_WIDTH: u64 = 12;

/// Progress of the clients of one backend and way.
#[derive(Debug, Default)]
pub(super) struct Counts {
    sent: Cell<u64>,
    delivered: Cell<u64>,
    ended: Cell<u32>,
    refused: Cell<u32>,
}

impl Counts {
    pub(super) fn send(&self) {
        self.sent.set(self.sent.get() + 1);
    }

    pub(super) fn deliver(&self) {
        self.delivered.set(self.delivered.get() + 1);
    }

    pub(super) fn end(&self, is_refused: bool) {
        self.ended.set(self.ended.get() + 1);
        self.refused.set(self.refused.get() + u32::from(is_refused));
    }
}

/// Progress of one backend's clients.
#[derive(Debug)]
struct ProgressLine {
    name: &'static str,
    /// Indexed by [`Way`].
    counts: [Rc<Counts>; 2],
    is_told: bool,
}

/// Progress of the whole demo.
#[derive(Debug)]
pub(super) struct Progress {
    lines: Vec<ProgressLine>,
    /// Clients per backend and way.
    clients: u32,
    /// Messages of all clients of one backend and way.
    to_send: u64,
    /// True on a terminal, where lines can be redrawn.
    is_live: bool,
    paint: Paint,
    drawn: usize,
}

impl Progress {
    pub(super) fn new(settings: Settings, is_live: bool, paint: Paint) -> Self {
        Self {
            lines: Vec::new(),
            clients: settings.clients,
            to_send: u64::from(settings.clients) * u64::from(settings.messages),
            is_live,
            paint,
            drawn: 0,
        }
    }

    /// Adds a line for a backend, with its counts by [`Way`].
    pub(super) fn watch(&mut self, name: &'static str, counts: &[Rc<Counts>; 2]) {
        self.lines.push(ProgressLine {
            name,
            counts: counts.clone(),
            is_told: false,
        });
    }

    /// Shows the changes.
    pub(super) fn show(&mut self, output: &mut impl Write) -> io::Result<()> {
        if self.is_live {
            self.draw(output)?;
        } else {
            self.say(output)?;
        }
        output.flush()
    }

    fn draw(&mut self, output: &mut impl Write) -> io::Result<()> {
        if self.drawn > 0 {
            // Moves up to the first of the lines.
            write!(output, "\x1b[{}A", self.lines.len())?;
        } else {
            let legend = "█ delivered   ░ sent, not delivered   · not sent yet";
            writeln!(output, "{}", self.paint.paint(Tone::Dim, legend))?;
        }
        let spinner = SPINNER[self.drawn % SPINNER.len()];
        self.drawn += 1;
        for line in &self.lines {
            let mark = if self.is_over(line) { "✓" } else { spinner };
            let ways = Way::BOTH.map(|way| self.bar(way, &line.counts[way as usize]));
            writeln!(
                output,
                // Erases the line first: the previous text may have been longer.
                "\x1b[2K{mark} {:<14}{}",
                line.name,
                ways.join("   ")
            )?;
        }
        Ok(())
    }

    /// `straight ████░░░░░░ 12/400`: delivered, sent, and still to be sent.
    fn bar(&self, way: Way, counts: &Counts) -> String {
        let digits = self.to_send.to_string().len();
        // All refused: a bar of nothing would look like a slow backend.
        if counts.refused.get() == self.clients {
            let width = usize::try_from(BAR_WIDTH).unwrap_or_default() + 2 * digits + 2;
            let refused = format!("{:<width$}", "connection refused");
            return format!("{} {}", way.name(), self.paint.paint(Tone::Bad, &refused));
        }
        let cells = |messages: u64| messages * BAR_WIDTH / self.to_send.max(1);
        let delivered = cells(counts.delivered.get());
        // `sent - delivered` must not underflow, whatever a backend acknowledges.
        let sent = cells(counts.sent.get()).max(delivered);
        let repeat = |text: &str, cells: u64| text.repeat(usize::try_from(cells).unwrap_or(0));
        let waiting = match way {
            Way::Straight => Tone::Bad,
            Way::Readygate => Tone::Plain,
        };
        format!(
            "{} {}{}{} {:>digits$}/{}",
            way.name(),
            self.paint.paint(Tone::Good, &repeat("█", delivered)),
            self.paint.paint(waiting, &repeat("░", sent - delivered)),
            self.paint.paint(Tone::Dim, &repeat("·", BAR_WIDTH - sent)),
            counts.delivered.get(),
            self.to_send,
        )
    }

    fn say(&mut self, output: &mut impl Write) -> io::Result<()> {
        for index in 0..self.lines.len() {
            let line = &self.lines[index];
            // Elsewhere than on a terminal each backend gets one line, when it is done.
            if line.is_told || !self.is_over(line) {
                continue;
            }
            let [straight, readygate] = Way::BOTH.map(|way| &line.counts[way as usize]);
            writeln!(
                output,
                "{}: {} of {} messages delivered straight, {} through readygate",
                line.name,
                straight.delivered.get(),
                self.to_send,
                readygate.delivered.get(),
            )?;
            self.lines[index].is_told = true;
        }
        Ok(())
    }

    fn is_over(&self, line: &ProgressLine) -> bool {
        line.counts.iter().all(|it| it.ended.get() == self.clients)
    }

    /// Returns the number of clients that have not finished.
    pub(super) fn unfinished(&self) -> u32 {
        let counts = self.lines.iter().flat_map(|line| &line.counts);
        counts.map(|it| self.clients - it.ended.get()).sum()
    }
}
