//! `readygate demo`: messages lost by backends that are not ready, with readygate and without.

use clap::{Args, value_parser};

use super::{Exit, chain, report, runtime};
use crate::demo;

const EXAMPLES: &str = "\
Examples:
  readygate demo
      See what is lost, and that it is not with readygate.

  readygate demo --clients 50 --messages 200
      The same with the largest numbers.

Exit status:
  0   readygate delivered every message once and in order
  1   it did not, or something failed
  2   the command line is wrong";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Demo {
    /// Clients for each backend, straight and through readygate, up to 50
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=50))]
    clients: u32,
    /// Messages that each client sends, up to 200
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..=200))]
    messages: u32,
    /// Seed of the messages and of the backends' times
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl Demo {
    pub(super) fn execute(self) -> Exit {
        let settings = demo::Settings {
            clients: self.clients,
            messages: self.messages,
            seed: self.seed,
        };
        let shown = match runtime() {
            Ok(runtime) => runtime.block_on(demo::run(settings)),
            Err(error) => Err(error.into()),
        };
        match shown {
            Ok(true) => Exit::Success,
            Ok(false) => Exit::Failure,
            Err(error) => {
                report(&chain(&error));
                Exit::Failure
            }
        }
    }
}
