//! `readygate check`: every problem in a file, without starting.

use std::{fmt, path::PathBuf};

use annotate_snippets::Level;
use clap::Args;

use super::{ConfigurationError, DEFAULT_FILE, Exit, is_stderr_colored, print, show, written};
use crate::config_file::Config;

const EXAMPLES: &str = "\
Examples:
  readygate check
      Before a reload: is ./proxy.toml valid?

  readygate check --config /etc/readygate/proxy.toml && systemctl reload readygate
      Reload only if it is.

Exit status:
  0   the file is valid; warnings are on standard error
  2   the command line is wrong
  78  the file is wrong, or cannot be read";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// The file to check
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
}

impl Check {
    pub(super) fn execute(self) -> Exit {
        match Config::load(&self.config) {
            Ok(config) => {
                // On standard error, so that standard output is one line for scripts.
                eprint!("{}", config.cautions.render(is_stderr_colored()));
                for warning in config.warnings() {
                    show(Level::WARNING, &warning);
                }
                let summary = CheckSummary(&config);
                print(&format!("{} is valid: {summary}\n", self.config.display()));
                // Warnings do not fail the check: `check && reload` is for files that work.
                Exit::Success
            }
            Err(error) => ConfigurationError::from(error).report(),
        }
    }
}

/// Summary of a configuration in a few words.
pub(super) struct CheckSummary<'a>(pub(super) &'a Config);

impl fmt::Display for CheckSummary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            listen, workers, ..
        } = self.0;
        let addresses: Vec<_> = listen
            .iter()
            .map(|listen| written(&listen.address))
            .collect();
        write!(
            formatter,
            "{}, {}, listening on {}",
            count(self.0.routes.iter().count(), "route"),
            count(workers.get(), "worker"),
            addresses.join(", ")
        )
    }
}

fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
