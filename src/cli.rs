//! Command line: arguments, configuration, telemetry, server, exit status.
//!
//! Problems go to standard error, in colour on a terminal unless `NO_COLOR` is set. The exit status
//! tells the operator's problems from the program's.

mod admin_client;
mod check;
mod color;
mod config;
mod demo;
mod explain;
mod serve;
mod sessions;
mod version;

use std::{
    env,
    error::Error,
    io::{self, Write},
    iter,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::ExitCode,
};

use annotate_snippets::{Group, Level, Renderer};
use clap::{
    Arg, Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
    error::{ContextValue, ErrorKind},
    parser::ValueSource,
};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use crate::{
    config::ListenAddress,
    config_file::{
        Config, LoadError, Mistake, address, process_environment,
        reload::{self, Source, Trigger},
        units, userinfo,
    },
    observability::{self, FORMATS, LEVELS},
    server::systemd::Inherited,
};

/// Configuration file used when the command line names none.
const DEFAULT_FILE: &str = "proxy.toml";

const EXAMPLES: &str = "\
Examples:
  readygate --upstream http://127.0.0.1:8081
      Stand in front of a local backend, on port $PORT or 8080, with defaults.

  readygate --config proxy.toml
      Hold messages until the backend says that it is ready, as the file describes.

  readygate config default > proxy.toml
      Start from a file with every key, its default and its purpose.

  readygate check --config proxy.toml
      Show every problem in a file, without starting.

  readygate explain wss://chat.example/room/7
      See which route a request takes, and what happens to it there.

  readygate demo
      See what backends that are not ready lose, with readygate and without.

Exit status:
  0   stopped on request, or the command succeeded
  1   failed while running, for example because the port is in use
  2   the command line is wrong
  78  the configuration is wrong
  130, 143  a second SIGINT or SIGTERM ended the drain by force";

const COMPLETIONS: &str = "\
Examples:
  source <(readygate completions bash)
      In ~/.bashrc: have the shell complete commands and options.

  readygate completions zsh > ~/.zfunc/_readygate
      The same for zsh, in a directory of its fpath.";

/// Accepts WebSocket clients at once and holds what they send until the backend is ready.
///
/// Every client gets its `101` immediately. While the application behind is still starting,
/// its messages are queued; once the application says that it is ready, they are
/// delivered in order, and the proxy gets out of the way.
///
/// With neither --config nor --upstream, ./proxy.toml is used.
#[derive(Debug, Parser)]
#[command(
    name = "readygate",
    version,
    long_version = version::SHORT,
    override_usage = "readygate [OPTIONS]\n       readygate [--color <WHEN>] <COMMAND>",
    after_help = EXAMPLES
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
    /// Colour text for people; "auto": on a terminal, unless `NO_COLOR` is set
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    color: ColorChoice,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy; the default without a command
    #[command(after_help = EXAMPLES)]
    Run(Run),
    /// Check a configuration file and show every problem in it
    Check(check::Check),
    /// Show the settings in effect, the defaults, or the schema
    Config(config::ConfigArguments),
    /// Show which route a request takes, and what happens to it there
    Explain(explain::Explain),
    /// Check the health of a running readygate
    ///
    /// For images without a shell and curl.
    Healthcheck(admin_client::Healthcheck),
    /// Show the sessions of a running readygate, or one of them in full
    Sessions(sessions::SessionsArguments),
    /// Reload the configuration of a running readygate
    ///
    /// Does the same as SIGHUP, and prints the changes or the problems.
    Reload(admin_client::Reload),
    /// Drain a running readygate: it takes no new clients, and ends
    ///
    /// For preStop in Kubernetes and the like. Does the same as SIGTERM.
    Drain(admin_client::DrainArguments),
    /// Show what backends that are not ready lose, with readygate and without
    ///
    /// Starts three backends that are not ready when their clients connect, and readygate
    /// before each, all within this process and on 127.0.0.1. Clients send the same messages
    /// straight to the backends and through readygate. Takes a few seconds, and fails if
    /// readygate loses, doubles or reorders a message.
    Demo(demo::Demo),
    /// Write completions for a shell to standard output
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Show what this program was built from
    Version(version::VersionArguments),
}

#[derive(Args, Debug)]
struct Run {
    /// Read the configuration from FILE [default: ./proxy.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "upstream")]
    config: Option<PathBuf>,
    /// Run without a file: everything goes to URL, with defaults
    ///
    /// URL is http://HOST:PORT, https://HOST:PORT or unix:PATH.
    #[arg(short, long, value_name = "URL", value_parser = address::upstream)]
    upstream: Option<address::Upstream>,
    /// Listen on ADDR instead: IP:PORT or unix:PATH
    #[arg(short, long, value_name = "ADDR", value_parser = address::listen)]
    listen: Option<ListenAddress>,
    /// Listen on ADDR for admin requests instead: IP:PORT, unix:PATH, or "" for nowhere
    #[arg(long, value_name = "ADDR", value_parser = AdminAddress::parse)]
    admin: Option<AdminAddress>,
    /// Serve with N threads instead, or "auto" for one per core
    #[arg(short, long, value_name = "N", value_parser = units::workers)]
    workers: Option<NonZeroUsize>,
    /// Log lines of LEVEL and above
    #[arg(long, value_name = "LEVEL", value_parser = choice(&LEVELS))]
    log_level: Option<Choice<tracing::Level>>,
    /// Write the log in FORM
    #[arg(long, value_name = "FORM", value_parser = choice(&FORMATS))]
    log_format: Option<Choice<observability::Format>>,
}

/// Value of an enumerated option, with its name in the configuration.
type Choice<T> = (&'static str, T);

/// Returns a parser of one of several names, which `--help` lists.
fn choice<T: Copy + Send + Sync>(
    choices: &'static [Choice<T>],
) -> impl TypedValueParser<Value = Choice<T>> {
    let words = choices.iter().map(|(word, _)| *word);
    PossibleValuesParser::new(words).map(|given| {
        let choice = choices.iter().find(|(word, _)| *word == given);
        *choice.expect("it is one of them")
    })
}

/// Address of the admin listener; `None` for `""`.
#[derive(Clone, Debug)]
struct AdminAddress(Option<ListenAddress>);

impl AdminAddress {
    fn parse(text: &str) -> Result<Self, Mistake> {
        address::admin(text).map(Self)
    }
}

/// Exit status of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// The command did its work, or the checked thing is as expected.
    Success = 0,
    /// Something failed while running, or is not as expected.
    Failure = 1,
    /// The command line is wrong in a way that only the configuration reveals.
    Usage = 2,
    /// The configuration is invalid: `EX_CONFIG` of BSD's sysexits.
    Configuration = 78,
    /// A second SIGINT ended the drain: 128 plus the signal's number, as in shells.
    Interrupted = 130,
    /// A second SIGTERM ended the drain.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the program with the arguments of the process.
#[must_use]
pub fn main() -> ExitCode {
    match Arguments::of_command_line() {
        Ok(Arguments {
            command,
            run,
            color,
        }) => {
            match color {
                ColorChoice::Auto => {}
                ColorChoice::Always => observability::set_colored(true),
                ColorChoice::Never => observability::set_colored(false),
            }
            command.unwrap_or(Command::Run(run)).execute().into()
        }
        // `--help` and `--version` also end up here; they go to standard output and succeed.
        Err(mut error) => {
            hide_userinfo(&mut error);
            // A reader that has gone must not turn into a panic or another status.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Hides user names and passwords of URLs in an error message that quotes the arguments.
fn hide_userinfo(error: &mut clap::Error) {
    let hidden = |(kind, value): (_, &ContextValue)| match value {
        ContextValue::String(value) => {
            let hidden = userinfo::hide_in_word(value);
            Some((kind, ContextValue::String(hidden)))
        }
        _ => None,
    };
    let hidden: Vec<_> = error.context().filter_map(hidden).collect();
    for (kind, value) in hidden {
        // clap replaces a context value of the same kind.
        error.insert(kind, value);
    }
}

impl Arguments {
    /// Parses the arguments like clap, except for `--color`: it also applies to errors in the
    /// arguments, and is the only option that may precede a command.
    fn of_command_line() -> Result<Self, clap::Error> {
        let mut known = Self::command().color(color::choice(env::args_os().skip(1)));
        let matches = known.try_get_matches_from_mut(env::args_os())?;
        let is_of_run = |option: &&Arg| {
            let id = option.get_id().as_str();
            id != "color" && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        let of_run = known.get_arguments().find(is_of_run).map(Arg::to_string);
        // clap would accept `readygate --config a.toml check` and ignore the option.
        if let (Some(name), Some(option)) = (matches.subcommand_name(), of_run) {
            let has_it = known.find_subcommand(name).is_some_and(|command| {
                let mut its_own = command.get_arguments();
                its_own.any(|argument| argument.to_string() == option)
            });
            let what = if has_it {
                let option = option.replace(['<', '>'], "");
                format!("it has to stand behind '{name}'; write: readygate {name} {option}")
            } else {
                format!("'{option}' cannot stand before '{name}'")
            };
            return Err(known.error(ErrorKind::ArgumentConflict, what));
        }
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut known))
    }
}

impl Command {
    fn execute(self) -> Exit {
        match self {
            Self::Run(run) => run.execute(),
            Self::Check(check) => check.execute(),
            Self::Config(config) => config.execute(),
            Self::Explain(explain) => explain.execute(),
            Self::Healthcheck(healthcheck) => healthcheck.execute(),
            Self::Sessions(sessions) => sessions.execute(),
            Self::Reload(reload) => reload.execute(),
            Self::Drain(drain) => drain.execute(),
            Self::Demo(demo) => demo.execute(),
            Self::Completions { shell } => complete(shell),
            Self::Version(version) => version.execute(),
        }
    }
}

fn complete(shell: clap_complete::Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "readygate", &mut script);
    print(&String::from_utf8_lossy(&script));
    Exit::Success
}

/// Loads the configuration in `file`, or makes one with a single route to `upstream`; with neither,
/// loads `./proxy.toml`.
fn configuration(
    file: Option<&Path>,
    upstream: Option<address::Upstream>,
) -> Result<Config, ConfigurationError> {
    Ok(match (file, upstream) {
        (Some(file), _) => Config::load(file)?,
        (None, Some(upstream)) => {
            Config::for_upstream(upstream, &process_environment).map_err(LoadError::Invalid)?
        }
        (None, None) if Path::new(DEFAULT_FILE).exists() => Config::load(Path::new(DEFAULT_FILE))?,
        (None, None) => return Err(ConfigurationError::Absent),
    })
}

impl Run {
    fn execute(self) -> Exit {
        // Removes variables of the environment, which is sound only before the first thread.
        let inherited = match Inherited::of_environment() {
            Ok(inherited) => inherited,
            Err(error) => {
                report(&chain(&error));
                return Exit::Failure;
            }
        };
        let config = match self.configuration() {
            Ok(config) => config,
            Err(error) => return error.report(),
        };
        let source = self.source();
        // Only now: before this nothing is logged, so that a broken configuration is reported in
        // full on standard error.
        let served = observability::init(&config.log).map_err(Into::into);
        let served = served.and_then(|()| serve::serve(config, source, inherited));
        // Lines that a thread has still to write would be lost with the process.
        observability::flush();
        match served {
            Ok(exit) => exit,
            Err(error) => {
                report(&chain(&*error));
                Exit::Failure
            }
        }
    }

    /// Returns the source of reloads, in which options of the command line still override the file.
    fn source(self) -> (Trigger, Source) {
        if self.upstream.is_some() {
            let nowhere =
                || Err("there is no file to read again: the proxy runs with --upstream".to_owned());
            return reload::source(None, nowhere);
        }
        let file = self.config.unwrap_or_else(|| DEFAULT_FILE.into());
        let again = Self {
            // Named even when it is the default, so that a deleted file is reported as unreadable.
            config: Some(file.clone()),
            ..self
        };
        reload::source(Some(file), move || {
            again.configuration().map_err(|error| error.to_text())
        })
    }

    fn configuration(&self) -> Result<Config, ConfigurationError> {
        let mut config = configuration(self.config.as_deref(), self.upstream.clone())?;
        // `override_with` keeps `/config` true: it shows each value with its origin.
        if let Some(listen) = &self.listen {
            config.effective.override_with("listen", written(listen));
            config.listen = vec![listen.clone().into()];
        }
        if let Some(AdminAddress(admin)) = &self.admin {
            let shown = admin.as_ref().map(written).unwrap_or_default();
            config.effective.override_with("admin.listen", shown);
            config.admin.clone_from(admin);
        }
        if let Some(workers) = self.workers {
            config.effective.override_with("workers", workers.get());
            config.workers = workers;
        }
        if let Some((word, level)) = self.log_level {
            config.effective.override_with("log.level", word);
            config.log.level = level;
        }
        if let Some((word, format)) = self.log_format {
            config.effective.override_with("log.format", word);
            config.log.format = format;
        }
        Ok(config)
    }
}

/// Formats the address as in a configuration.
fn written(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// Reason that the program has no configuration to run with.
#[derive(Debug, thiserror::Error)]
enum ConfigurationError {
    #[error("there is no configuration: no --upstream, no --config, and no ./{DEFAULT_FILE}")]
    Absent,
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl ConfigurationError {
    /// Formats all problems, without colours.
    fn to_text(&self) -> String {
        match self {
            Self::Load(LoadError::Invalid(problems)) => problems.render(false),
            error => chain(error),
        }
    }

    fn report(&self) -> Exit {
        match self {
            Self::Absent => {
                report(&self.to_string());
                eprintln!("\n{EXAMPLES}");
            }
            Self::Load(LoadError::Invalid(problems)) => {
                eprintln!("{}", problems.render(is_stderr_colored()));
            }
            Self::Load(error @ LoadError::Unreadable { .. }) => report(&chain(error)),
        }
        Exit::Configuration
    }
}

/// Writes `text` to standard output, ignoring a reader that has gone.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Formats an error with its causes in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

fn report(error: &str) {
    show(Level::ERROR, error);
}

/// Writes a line to standard error.
fn show(level: Level<'_>, line: &str) {
    let renderer = if is_stderr_colored() {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let title = level.primary_title(line);
    eprintln!("{}", renderer.render(&[Group::with_title(title)]));
}

fn is_stderr_colored() -> bool {
    observability::is_colored(&io::stderr())
}

fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
}
