//! `readygate config`: what is in effect, what the defaults are, and what there may be.

use clap::{Args, Subcommand};

use super::{Exit, Run, print};
use crate::config_file::{default_file, reference, schema};

const EXAMPLES: &str = "\
Examples:
  readygate config default > proxy.toml
      Begin with a file that has every key, its default and what it is for.

  readygate config show --config proxy.toml
      See every value that is in effect, and whether it is a default or who said it.

  readygate config schema > proxy.schema.json
      Have an editor complete and check the file, with this as its first line:
      #:schema ./proxy.schema.json

Exit status:
  0   it is shown
  2   the command line is wrong
  78  the configuration is wrong";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every value that is in effect, as TOML, and where it comes from
    ///
    /// What is shown can be used as a file. Text with variables in it, which may be secret,
    /// is shown as it is written.
    Show(Run),
    /// Show the complete file with every default, and what each key is for
    Default,
    /// Show a page of Markdown with every key, its values and default, and what it is for
    Reference,
    /// Show the JSON Schema of the file, for editors
    Schema,
}

impl ConfigArguments {
    pub(super) fn execute(self) -> Exit {
        match self.command {
            ConfigCommand::Show(run) => match run.configuration() {
                Ok(config) => print(&config.effective.to_toml()),
                Err(error) => return error.report(),
            },
            ConfigCommand::Default => print(&default_file()),
            ConfigCommand::Reference => print(&reference()),
            ConfigCommand::Schema => print(&format!("{:#}\n", schema())),
        }
        Exit::Success
    }
}
