//! The system's figures about the process.

use std::{fmt, fs};

use super::{Labels, page::Page};

/// Figures that every client library of Prometheus has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::admin) struct ProcessStatus {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    open_fds: u64,
    max_fds: u64,
    threads: u64,
    start_time_seconds: f64,
}

impl ProcessStatus {
    /// Reads the figures of this process; `None` without `/proc`.
    pub(in crate::admin) fn read() -> Option<Self> {
        let open_fds = fs::read_dir("/proc/self/fd").ok()?.count();
        Self::parse(
            &fs::read_to_string("/proc/self/stat").ok()?,
            &fs::read_to_string("/proc/self/limits").ok()?,
            &fs::read_to_string("/proc/stat").ok()?,
            // One descriptor is open for reading the directory itself.
            open_fds.saturating_sub(1) as u64,
        )
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "ticks since the system began are far below 2^52"
    )]
    fn parse(stat: &str, limits: &str, system: &str, open_fds: u64) -> Option<Self> {
        let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
        // The program's name before it may contain spaces and parentheses.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<_> = fields.split(' ').collect();
        // Numbered as in proc_pid_stat(5), where the first of these is 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let line = |text: &str, name: &str| -> Option<String> {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(rest.split_whitespace().next()?.to_owned())
        };
        let boot_seconds: u64 = line(system, "btime ")?.parse().ok()?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks_per_second,
            threads: field(20)?,
            // Counted in ticks since the boot.
            start_time_seconds: boot_seconds as f64 + field(22)? as f64 / ticks_per_second,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * rustix::param::page_size() as u64,
            open_fds,
            // Unparsable means `unlimited`.
            max_fds: line(limits, "Max open files")?.parse().unwrap_or(u64::MAX),
        })
    }

    /// Returns the number of open descriptors.
    pub(in crate::admin) const fn open_files(&self) -> u64 {
        self.open_fds
    }

    /// Returns the limit of open descriptors; `None`: unlimited.
    pub(in crate::admin) fn max_files(&self) -> Option<u64> {
        Some(self.max_fds).filter(|max| *max != u64::MAX)
    }

    /// Returns the resident memory in bytes.
    pub(in crate::admin) const fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    pub(super) fn encode(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counters(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds.",
            [(Labels::new(), self.cpu_seconds)],
        )?;
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
                self.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
                self.virtual_bytes,
            ),
            (
                "process_open_fds",
                "Number of open file descriptors.",
                self.open_fds,
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors.",
                self.max_fds,
            ),
            (
                "process_threads",
                "Number of threads in the process.",
                self.threads,
            ),
        ] {
            page.gauge(name, help, value)?;
        }
        page.real_gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            self.start_time_seconds,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_taken_from_their_fields() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 15 16 7 18 1000 8192 3 21";
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n";
        let system = "cpu 1 2\nbtime 1700000000\nprocesses 5\n";

        let status = ProcessStatus::parse(stat, limits, system, 9).unwrap();

        let ticks = rustix::param::clock_ticks_per_second();
        let page = rustix::param::page_size() as u64;
        assert_eq!(
            (status.virtual_bytes, status.resident_bytes),
            (8192, 3 * page)
        );
        assert_eq!(
            (status.open_fds, status.max_fds, status.threads),
            (9, 1024, 7)
        );
        if ticks == 100 {
            assert!((status.cpu_seconds - 2.0).abs() < 1e-9);
            assert!((status.start_time_seconds - 1_700_000_010.0).abs() < 1e-3);
        }
    }

    #[test]
    fn this_process_has_all_of_them() {
        let status = ProcessStatus::read().unwrap();

        assert!(status.resident_bytes > 0 && status.open_fds > 0 && status.threads > 0);
        assert!(status.max_fds >= status.open_fds);
    }
}
