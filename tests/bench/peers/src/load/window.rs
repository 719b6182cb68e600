//! The part of a run that counts: after a warm-up, for a while.

use std::time::{Duration, Instant};

use super::say;
use crate::{Result, arguments::Arguments, cpu::CpuClocks, histogram::Histogram};

/// A run without any answer for so long has failed.
const STALLED_AFTER: Duration = Duration::from_secs(10);

/// When a run begins to count, and when it ends.
#[derive(Debug)]
pub struct Window {
    clocks: CpuClocks,
    warm_up: Duration,
    length: Duration,
    phase: Phase,
    latencies: Histogram,
    errors: u64,
    last_answer: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    WarmUp {
        since: Instant,
    },
    Measuring {
        since: Instant,
        cpu_before: Duration,
    },
}

impl Window {
    /// The options `--seconds`, `--warm-up` and `--cpu-of`.
    pub fn from_arguments(arguments: &mut Arguments) -> Result<Self> {
        let seconds = arguments.number("seconds", 2.0, 0.01..=60.0)?;
        let warm_up = arguments.number("warm-up", 0.3, 0.0..=10.0)?;
        let now = Instant::now();
        Ok(Self {
            clocks: CpuClocks::of(&arguments.text("cpu-of").unwrap_or_default())?,
            warm_up: Duration::from_secs_f64(warm_up),
            length: Duration::from_secs_f64(seconds),
            phase: Phase::WarmUp { since: now },
            latencies: Histogram::new(),
            errors: 0,
            last_answer: now,
        })
    }

    /// The warm-up begins: everything is connected.
    pub fn start(&mut self) {
        self.last_answer = Instant::now();
        self.phase = Phase::WarmUp {
            since: self.last_answer,
        };
    }

    /// An answer to what was due at `since`.
    pub fn answered(&mut self, since: Instant, now: Instant) {
        self.last_answer = now;
        if matches!(self.phase, Phase::Measuring { .. }) {
            self.latencies.record(now.duration_since(since));
        }
    }

    /// Something that should not happen in any phase.
    pub fn failed(&mut self, error: &dyn std::fmt::Display) {
        if self.errors == 0 {
            eprintln!("readygate-peers: {error}");
        }
        self.errors += 1;
    }

    /// Fails when nothing has come back for long.
    pub fn check_progress(&self, now: Instant) -> Result<()> {
        if now.duration_since(self.last_answer) > STALLED_AFTER {
            return Err("no answer any more".into());
        }
        Ok(())
    }

    /// Whether the window is over; its result is printed then.
    pub fn is_over(&mut self, now: Instant) -> Result<bool> {
        match self.phase {
            Phase::WarmUp { since } => {
                if now.duration_since(since) >= self.warm_up {
                    let cpu_before = self.clocks.total()?;
                    self.phase = Phase::Measuring {
                        since: now,
                        cpu_before,
                    };
                }
                Ok(false)
            }
            Phase::Measuring { since, cpu_before } => {
                let elapsed = now.duration_since(since);
                if elapsed < self.length {
                    return Ok(false);
                }
                self.report(elapsed, self.clocks.total()?.saturating_sub(cpu_before))?;
                Ok(true)
            }
        }
    }

    fn report(&self, elapsed: Duration, cpu: Duration) -> Result<()> {
        let microseconds = |per_mille| self.latencies.quantile(per_mille).as_secs_f64() * 1e6;
        say(&format!(
            r#"{{"messages":{},"seconds":{:.6},"cpu_seconds":{:.9},"p50_us":{:.1},"p99_us":{:.1},"errors":{}}}"#,
            self.latencies.total(),
            elapsed.as_secs_f64(),
            cpu.as_secs_f64(),
            microseconds(500),
            microseconds(990),
            self.errors,
        ))
    }
}
