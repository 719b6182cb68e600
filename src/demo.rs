//! `readygate demo`: messages lost by backends that are not ready, with and without readygate in
//! front of them.
//!
//! ```text
//!  clients ───────────────────┐
//!                             ├──► a backend that is not ready: late handler,
//!  clients ───► readygate ────┘    services still starting, or not listening
//! ```
//!
//! Everything is real: the proxy is the one that `readygate --config` runs, backends and clients
//! are WebSocket endpoints of tokio-tungstenite, and all of them use TCP on 127.0.0.1. Both ways
//! run at the same time.
//!
//! # Invariants
//!
//! * A client sends the same messages at the same times after its own handshake, and its
//!   backend takes the same time to be ready for it, whichever way it goes.
//! * A message counts as delivered only when the backend has handled and acknowledged it.
//! * The demo ends within [`DEADLINE`].

mod backend;
mod client;
mod messages;
mod paint;
mod progress;
mod table;
mod tally;

use std::{
    collections::BTreeMap,
    future,
    io::{self, IsTerminal, Write},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use self::{
    backend::{Backend, Behaviour},
    client::ClientOutcome,
    messages::SendSchedule,
    paint::{Paint, Tone},
    progress::{Counts, Progress},
    table::Group,
    tally::{DemoTotals, median},
};
use crate::{
    config::ListenAddress,
    config_file::{Config, Problems},
    observability,
    server::{self, BindError, Listener},
};

/// Time for all clients to finish.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Period over which the clients arrive.
const ARRIVALS: Duration = Duration::from_millis(300);

/// Number of backends times ways.
const LANES: u32 = 6;

/// Configuration of the proxies, which is also shown.
const PROXY_TOML: &str = include_str!("demo/proxy.toml");

/// Size of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Clients per backend and way.
    pub clients: u32,
    /// Messages of each client.
    pub messages: u32,
    /// Seed of messages and times.
    pub seed: u64,
}

/// Reason that there is no result.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The clients did not finish.
    #[error(
        "the demo was not over after {} s: {unfinished} clients had not finished; \
         this machine may be too busy for so many",
        DEADLINE.as_secs()
    )]
    TooSlow {
        /// Clients that were still running.
        unfinished: u32,
    },
    /// The proxy's configuration is not valid.
    #[error(transparent)]
    Configuration(#[from] Problems),
    /// The proxy cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A backend or a proxy failed, or standard output is closed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Legend of the table.
const NOTES: &str = "\
delivered  the backend has handled it and acknowledged its number
lost       all the rest, with what clients that were refused could not send
order      handled after a later message of the same priority
101        median from connecting to the handshake's answer; none: refused
ready      median from connecting to the backend's ready message
flush      median at the backend, from sending its ready message to the arrival
           of the last message that the client had sent before it heard that";

/// Path of a client's messages to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Straight,
    Readygate,
}

impl Way {
    const BOTH: [Self; 2] = [Self::Straight, Self::Readygate];

    const fn name(self) -> &'static str {
        match self {
            Self::Straight => "straight",
            Self::Readygate => "readygate",
        }
    }
}

/// Results of the clients of one backend and way.
#[derive(Debug)]
struct ScenarioRow {
    way: Way,
    clients: u32,
    totals: DemoTotals,
    /// Medians over the clients.
    opened: Option<Duration>,
    ready: Option<Duration>,
    flush: Option<Duration>,
    /// Failures of clients, with their number.
    failures: BTreeMap<String, u32>,
}

impl ScenarioRow {
    fn new(way: Way, clients: u32, outcomes: &[ClientOutcome]) -> Self {
        let mut failures = BTreeMap::new();
        for failure in outcomes.iter().filter_map(|it| it.failure.as_ref()) {
            *failures.entry(failure.to_string()).or_default() += 1;
        }
        Self {
            way,
            clients,
            totals: outcomes.iter().map(|it| it.totals).sum(),
            opened: median(outcomes.iter().filter_map(|it| it.opened)),
            ready: median(outcomes.iter().filter_map(|it| it.ready)),
            flush: median(outcomes.iter().filter_map(|it| it.flush)),
            failures,
        }
    }
}

/// Runs the demo and writes about it to standard output; returns whether the proxy delivered every
/// message once and in order.
///
/// # Errors
///
/// The demo could not be run to its end.
///
/// # Panics
///
/// Outside of a `LocalRuntime`.
pub async fn run(settings: Settings) -> Result<bool, DemoError> {
    let mut output = io::stdout().lock();
    let paint = Paint {
        is_colored: observability::is_colored(&output),
    };
    // A dumb terminal cannot move the cursor, so redrawn lines would pile up.
    let is_live = output.is_terminal() && std::env::var_os("TERM").is_some_and(|it| it != "dumb");
    let mut progress = Progress::new(settings, is_live, paint);

    introduce(&mut output, settings, paint)?;
    let groups = play(settings, &mut progress, &mut output).await?;
    conclude(&mut output, &groups, settings, paint)
}

fn introduce(output: &mut impl Write, settings: Settings, paint: Paint) -> io::Result<()> {
    let Settings {
        clients, messages, ..
    } = settings;
    let early = messages::early(messages);
    let late = messages - early;
    let title = "Three backends that cannot work yet when their clients come.";
    writeln!(output, "{}", paint.paint(Tone::Bold, title))?;
    writeln!(
        output,
        "\
Each has {clients} clients straight to it and {clients} through readygate. A client sends {early}
messages in the first second after its handshake, and {late} when the backend says
that it is ready. Each readygate has this proxy.toml, with its own $BACKEND:
",
    )?;
    for line in PROXY_TOML.lines() {
        let indent = if line.is_empty() { "" } else { "  " };
        writeln!(output, "{indent}{}", paint.paint(Tone::Dim, line))?;
    }
    writeln!(output)
}

/// Runs everything to its end and shows the progress.
async fn play(
    settings: Settings,
    progress: &mut Progress,
    output: &mut impl Write,
) -> Result<Vec<Group>, DemoError> {
    let deadline = Instant::now() + DEADLINE;
    // Backends and proxies; dropping the set ends them.
    let mut servers = JoinSet::new();
    let mut stages = Vec::new();
    for behaviour in Behaviour::all() {
        let stage = DemoStage::start(behaviour, settings, &mut servers)?;
        progress.watch(stage.behaviour.name, &stage.counts);
        stages.push(stage);
    }
    let plays = (0..)
        .zip(&stages)
        .map(|(lane, stage)| stage.play(settings, lane));
    let mut played = pin!(join_all(plays));
    let mut tick = time::interval(progress::INTERVAL);
    loop {
        tokio::select! {
            groups = &mut played => {
                progress.show(output)?;
                return Ok(groups);
            }
            _ = tick.tick() => progress.show(output)?,
            // No server ends by itself, so any end is a failure of the demo.
            Some(ended) = servers.join_next() => {
                let ended = ended.map_err(io::Error::other).flatten();
                return Err(ended.err().unwrap_or_else(|| io::Error::other("a server ended")).into());
            }
            () = time::sleep_until(deadline) => {
                return Err(DemoError::TooSlow { unfinished: progress.unfinished() });
            }
        }
    }
}

/// One backend with its proxy and their clients.
struct DemoStage {
    behaviour: Behaviour,
    /// Addresses for clients, by [`Way`].
    addresses: [SocketAddr; 2],
    /// Progress, by [`Way`].
    counts: [Rc<Counts>; 2],
}

impl DemoStage {
    fn start(
        behaviour: Behaviour,
        settings: Settings,
        servers: &mut JoinSet<io::Result<()>>,
    ) -> Result<Self, DemoError> {
        let backend = Backend::bind(behaviour.clone(), settings.seed)?;
        let straight = backend.address()?;
        let config = configuration(&format!("http://{straight}"))?;
        let listeners = server::bind(&config.listen)?;
        let Some(ListenAddress::Tcp(readygate)) = listeners.first().map(Listener::address) else {
            unreachable!("the configuration has a TCP address");
        };
        let readygate = *readygate;
        servers.spawn_local(backend.serve());
        servers.spawn_local(server::run(listeners, Arc::new(config), future::pending()));
        Ok(Self {
            behaviour,
            addresses: [straight, readygate],
            counts: Default::default(),
        })
    }

    async fn play(&self, settings: Settings, index: u32) -> Group {
        let way = |way| self.play_way(way, settings, 2 * index + way as u32);
        let rows = tokio::join!(way(Way::Straight), way(Way::Readygate));
        Group {
            name: self.behaviour.name,
            description: self.behaviour.description(),
            rows: rows.into(),
        }
    }

    /// Runs the clients of one way. Clients of all ways arrive in turn, so that no handshake waits
    /// for another.
    async fn play_way(&self, way: Way, settings: Settings, lane: u32) -> ScenarioRow {
        let Settings {
            clients, messages, ..
        } = settings;
        let address = self.addresses[way as usize];
        let counts = &self.counts[way as usize];
        let client = async |client| {
            // Lanes interleave: client 0 of every lane, then client 1 of every lane.
            time::sleep(ARRIVALS * (client * LANES + lane) / (clients * LANES)).await;
            let schedule = SendSchedule::new(messages, settings.seed, client);
            client::run(address, client, &schedule, counts).await
        };
        let outcomes = join_all((0..clients).map(client)).await;
        ScenarioRow::new(way, clients, &outcomes)
    }
}

/// Returns the configuration of the proxy before `backend`, from the file that is shown.
fn configuration(backend: &str) -> Result<Config, Problems> {
    let environment = |name: &str| (name == "BACKEND").then(|| backend.to_owned());
    let mut config = Config::parse("proxy.toml", PROXY_TOML, &environment)?;
    config.listen = vec![ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))).into()];
    Ok(config)
}

/// Shows the results; returns whether the proxy was flawless.
fn conclude(
    output: &mut impl Write,
    groups: &[Group],
    settings: Settings,
    paint: Paint,
) -> Result<bool, DemoError> {
    let of = |way: Way| {
        let rows = groups.iter().map(|group| &group.rows[way as usize]);
        rows.map(|row| row.totals).sum::<DemoTotals>()
    };
    let readygate = of(Way::Readygate);
    writeln!(output, "\n{}\n", table::render(groups, paint))?;
    writeln!(output, "{}", paint.paint(Tone::Dim, NOTES))?;
    for group in groups {
        // Failures straight to a backend are the point of the demo, and in the table.
        for (failure, clients) in &group.rows[Way::Readygate as usize].failures {
            writeln!(
                output,
                "{}, through readygate, {clients} clients: {failure}",
                group.name
            )?;
        }
    }
    let tone = if readygate.is_flawless() {
        Tone::Good
    } else {
        Tone::Bad
    };
    let verdict = verdict(of(Way::Straight), readygate, settings.seed);
    writeln!(output, "\n{}", paint.paint(tone, &verdict))?;
    Ok(readygate.is_flawless())
}

/// Summarizes the results in a sentence or two.
fn verdict(straight: DemoTotals, readygate: DemoTotals, seed: u64) -> String {
    if readygate.is_flawless() {
        format!(
            "Straight to the backends {} of {} messages were lost. Through readygate all\n\
             {} arrived, once each and in order within their priority.",
            straight.lost(),
            straight.to_send,
            readygate.to_send,
        )
    } else {
        format!(
            "readygate lost {}, doubled {} and reordered {} of {} messages.\n\
             It must not: please report it, with --seed {seed}.",
            readygate.lost(),
            readygate.doubled,
            readygate.out_of_order,
            readygate.to_send,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRAIGHT: DemoTotals = DemoTotals {
        to_send: 400,
        delivered: 107,
        doubled: 0,
        out_of_order: 0,
    };

    fn conclusion(readygate: DemoTotals) -> (bool, String) {
        let row = |way, totals| ScenarioRow {
            way,
            totals,
            ..ScenarioRow::new(way, 8, &[])
        };
        let group = Group {
            name: "a backend",
            description: "is slow".to_owned(),
            rows: [row(Way::Straight, STRAIGHT), row(Way::Readygate, readygate)],
        };
        let settings = Settings {
            clients: 8,
            messages: 50,
            seed: 7,
        };
        let paint = Paint { is_colored: false };
        let mut output = Vec::new();
        let is_flawless = conclude(&mut output, &[group], settings, paint).unwrap();
        (is_flawless, String::from_utf8(output).unwrap())
    }

    #[test]
    fn everything_fits_into_80_columns() {
        let settings = Settings {
            clients: 50,
            messages: 200,
            seed: 1,
        };
        let paint = Paint { is_colored: false };
        let mut output = Vec::new();
        introduce(&mut output, settings, paint).unwrap();
        let everything = String::from_utf8(output).unwrap() + &conclusion(STRAIGHT).1;

        let descriptions = Behaviour::all().map(|it| format!("{}: {}", it.name, it.description()));

        let lines = everything.lines();
        for line in lines.chain(descriptions.iter().map(String::as_str)) {
            assert!(line.chars().count() < 80, "{line}");
            assert_eq!(line, line.trim_end());
        }
    }

    #[test]
    fn only_a_flawless_delivery_succeeds_and_is_told_as_one() {
        let flawless = DemoTotals {
            delivered: 400,
            ..STRAIGHT
        };

        let (is_flawless, text) = conclusion(flawless);

        assert!(is_flawless);
        assert!(text.contains("293 of 400 messages were lost"), "{text}");
        assert!(text.contains("readygate all\n400 arrived"), "{text}");
    }

    #[test]
    fn one_loss_double_or_disorder_fails_and_is_counted() {
        let flawless = DemoTotals {
            delivered: 400,
            ..STRAIGHT
        };
        for (totals, told) in [
            (
                DemoTotals {
                    delivered: 399,
                    ..flawless
                },
                "lost 1, doubled 0 and reordered 0",
            ),
            (
                DemoTotals {
                    doubled: 1,
                    ..flawless
                },
                "lost 0, doubled 1 and reordered 0",
            ),
            (
                DemoTotals {
                    out_of_order: 1,
                    ..flawless
                },
                "lost 0, doubled 0 and reordered 1",
            ),
        ] {
            let (is_flawless, text) = conclusion(totals);

            assert!(!is_flawless);
            assert!(text.contains(told), "{text}");
            assert!(text.contains("--seed 7"), "{text}");
        }
    }
}
