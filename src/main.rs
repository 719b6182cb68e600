//! The `readygate` program: arguments, configuration, telemetry, server, exit status.
fn main() {}
