//! The `readygate` program.

use std::process::ExitCode;

/// The system's allocator keeps what a burst of messages took for as long as the process is
/// idle; this one gives it back.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    readygate::cli::main()
}
