//! The CPU time of other processes, to the nanosecond.
//!
//! The tick counters of `/proc/PID/stat` are 10 ms apart, and `/proc/PID/schedstat` is as
//! old as the last timer tick; a process's CPU clock is neither.

use std::time::Duration;

use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

use crate::Result;

/// The CPU clocks of some processes, each with all its threads.
#[derive(Debug)]
pub struct CpuClocks(Vec<ClockId>);

impl CpuClocks {
    /// The clocks of the processes in `pids`, a list like `12,34`; it may be empty.
    pub fn of(pids: &str) -> Result<Self> {
        let clock = |pid: &str| -> Result<ClockId> {
            Ok(clock_getcpuclockid(Pid::from_raw(pid.parse()?))?)
        };
        let pids = pids.split(',').filter(|pid| !pid.is_empty());
        Ok(Self(pids.map(clock).collect::<Result<_>>()?))
    }

    /// What all of them have used since they began.
    pub fn total(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for clock in &self.0 {
            total += Duration::from(clock_gettime(*clock)?);
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use std::{hint::black_box, process, time::Instant};

    use super::*;

    #[test]
    fn a_process_that_computes_uses_cpu_time() {
        let clocks = CpuClocks::of(&process::id().to_string()).unwrap();
        let before = clocks.total().unwrap();

        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(5) {
            black_box(started);
        }

        assert!(clocks.total().unwrap() > before);
    }

    #[test]
    fn no_process_uses_none_and_nonsense_is_refused() {
        assert_eq!(CpuClocks::of("").unwrap().total().unwrap(), Duration::ZERO);
        assert!(CpuClocks::of("me").is_err());
    }
}
