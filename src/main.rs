//! The `readygate` program: arguments, configuration, telemetry, server, exit status.

use std::process::ExitCode;

fn main() -> ExitCode {
    readygate::cli::main()
}
