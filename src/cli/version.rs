//! `readygate version`: the sources and the compiler that the program was built from.

use serde_json::json;

use super::{Exit, print};

/// Text of `--version` behind the name.
pub(super) const SHORT: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("READYGATE_COMMIT"),
    ", ",
    env!("READYGATE_TARGET"),
    ")"
);

const EXAMPLES: &str = "\
Examples:
  readygate version
      For a report of a fault: version, commit, compiler and target.

  readygate version --json
      The same for programs.";

#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct VersionArguments {
    /// Write one JSON object, as GET /build returns it
    #[arg(long)]
    json: bool,
}

impl VersionArguments {
    pub(super) fn execute(&self) -> Exit {
        let built = json!({
            "name": env!("CARGO_PKG_NAME"),
            "version": env!("CARGO_PKG_VERSION"),
            "commit": env!("READYGATE_COMMIT"),
            "rustc": env!("READYGATE_RUSTC"),
            "target": env!("READYGATE_TARGET"),
            "profile": env!("READYGATE_PROFILE"),
        });
        if self.json {
            print(&format!("{built}\n"));
        } else {
            let value = |name: &str| built[name].as_str().map(str::to_owned);
            let line = |name: &&str| format!("{name:8} {}\n", value(name).unwrap_or_default());
            let names = ["version", "commit", "rustc", "target", "profile"];
            print(&names.iter().map(line).collect::<String>());
        }
        Exit::Success
    }
}
