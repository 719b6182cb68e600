//! Clients of the admin listener: the commands `healthcheck`, `reload` and `drain`.
//!
//! Images without a shell and curl have no other way to send these requests.

use std::{
    io::{self, IsTerminal},
    net::IpAddr,
    path::PathBuf,
    pin::pin,
    time::Duration,
};

use clap::Args;
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    task,
    time::{self, Instant},
};

use super::{ConfigurationError, Exit, chain, configuration, print, report, runtime};
use crate::{
    config::{DEFAULT_ADMIN, ListenAddress},
    config_file::{address, units},
    upstream::{
        self, Address,
        dial::{DialError, dial},
        protocol::Protocol,
    },
};

/// Time for a response; reading a configuration may take up to 5 s of it.
const TIMEOUT: Duration = Duration::from_secs(7);

/// Interval between checks whether a draining process is still there.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Interval between updates of the progress line.
const SHOW_AGAIN: Duration = Duration::from_millis(500);

const HEALTHCHECK: &str = "\
Examples:
  readygate healthcheck
      For HEALTHCHECK of an image, or a liveness probe: do the workers respond?

  readygate healthcheck --ready --admin unix:/run/readygate/admin.sock
      Does the one with this admin listener take new clients?

Exit status:
  0   healthy
  1   unhealthy, or no response
  2   the command line is wrong
  78  the configuration is wrong";

const RELOAD: &str = "\
Examples:
  readygate reload
      Reload ./proxy.toml, and print the changes.

  readygate reload --admin unix:/run/readygate/admin.sock
      Reload the one with this admin listener.

Exit status:
  0   the file is in effect, for new sessions
  1   no admin listener, or no response
  2   the command line is wrong
  78  the file is wrong, or changes a key that needs a restart; nothing of it is in effect";

const DRAIN: &str = "\
Examples:
  readygate drain --wait 10s
      For preStop in Kubernetes: end the sessions, and return when the process has gone.

  readygate drain --config /etc/readygate/proxy.toml
      The address is in this file; do not wait.

Exit status:
  0   it drains; with --wait, it has ended
  1   no admin listener, or the process is still there after that time
  2   the command line is wrong
  78  the configuration is wrong";

/// Selection of a running readygate.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// Use the admin listener at ADDR: IP:PORT or unix:PATH
    ///
    /// By default the one in the configuration file, or 127.0.0.1:9901 without a file.
    #[arg(long, value_name = "ADDR", value_parser = address::admin_listen)]
    admin: Option<ListenAddress>,
    /// Take the address from FILE [default: ./proxy.toml if there is one]
    #[arg(short, long, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = HEALTHCHECK)]
pub(super) struct Healthcheck {
    /// Also check that it takes new clients: not while it drains, or without capacity
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    which: Which,
}

#[derive(Args, Debug)]
#[command(after_help = RELOAD)]
pub(super) struct Reload {
    #[command(flatten)]
    which: Which,
}

#[derive(Args, Debug)]
#[command(after_help = DRAIN)]
pub(super) struct DrainArguments {
    /// Wait until the process is gone, for as long as DURATION: "10s", "1m"
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    wait: Option<Duration>,
    #[command(flatten)]
    which: Which,
}

impl Healthcheck {
    pub(super) fn execute(&self) -> Exit {
        let path = if self.ready { "/readyz" } else { "/livez" };
        self.which.ask_with(async |listener| {
            let text = listener.ask(Method::GET, path).await?;
            print(&(text + "\n"));
            Ok(())
        })
    }
}

impl Reload {
    pub(super) fn execute(&self) -> Exit {
        self.which.ask_with(async |listener| {
            let text = listener.ask(Method::POST, "/reload").await?;
            print(&(text + "\n"));
            Ok(())
        })
    }
}

impl DrainArguments {
    pub(super) fn execute(&self) -> Exit {
        self.which.ask_with(async |listener| {
            let text = listener.ask(Method::POST, "/drain").await?;
            let Some(wait) = self.wait else {
                print(&(text + "\n"));
                return Ok(());
            };
            let gone = async {
                if io::stderr().is_terminal() {
                    listener.gone_with_progress(wait).await;
                } else {
                    listener.gone().await;
                }
            };
            let gone = time::timeout(wait, gone).await;
            gone.map_err(|_elapsed| NoResponse::StillThere(wait))
        })
    }
}

impl Which {
    /// Runs `ask` against the selected admin listener.
    pub(super) fn ask_with(
        &self,
        ask: impl AsyncFnOnce(AdminListener) -> Result<(), NoResponse>,
    ) -> Exit {
        let listener = match self.listener() {
            Ok(Some(listener)) => listener,
            Ok(None) => {
                report("this configuration has no admin listener: admin.listen is \"\"");
                return Exit::Failure;
            }
            Err(error) => return error.report(),
        };
        let asked = match runtime() {
            Ok(runtime) => runtime.block_on(ask(listener)),
            Err(error) => Err(error.into()),
        };
        match asked {
            Ok(()) => Exit::Success,
            // The response is a rendered report already, with a place for each problem.
            Err(NoResponse::Refused(StatusCode::UNPROCESSABLE_ENTITY, problems)) => {
                eprintln!("{problems}");
                Exit::Configuration
            }
            Err(error) => {
                report(&chain(&error));
                Exit::Failure
            }
        }
    }

    fn listener(&self) -> Result<Option<AdminListener>, ConfigurationError> {
        let address = match &self.admin {
            Some(address) => Some(address.clone()),
            None => match configuration(self.config.as_deref(), None) {
                Ok(config) => config.admin,
                Err(ConfigurationError::Absent) => Some(ListenAddress::Tcp(DEFAULT_ADMIN)),
                Err(error) => return Err(error),
            },
        };
        Ok(address.map(AdminListener))
    }
}

/// Reason that an admin listener did not do as requested.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoResponse {
    #[error("cannot connect to the admin listener")]
    Unreachable(#[from] DialError),
    #[error("no response within {TIMEOUT:?}")]
    Silent,
    #[error("no response")]
    Lost(#[from] hyper::Error),
    #[error("{0}: {1}")]
    Refused(StatusCode, String),
    #[error("still there after {0:?}")]
    StillThere(Duration),
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Admin listener of a running readygate.
pub(super) struct AdminListener(ListenAddress);

impl AdminListener {
    /// Returns the text of a successful response.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<String, NoResponse> {
        let (status, text) = time::timeout(TIMEOUT, self.exchange(method, path))
            .await
            .map_err(|_elapsed| NoResponse::Silent)??;
        // Responses for people end with a line break, which an error message must not.
        let text = text.trim_end().to_owned();
        if status.is_success() {
            Ok(text)
        } else {
            Err(NoResponse::Refused(status, text))
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, String), NoResponse> {
        let settings = upstream::Settings::new(self.address());
        // The same connector as the proxy's own, so that TCP and Unix sockets both work.
        let stream = dial(&settings, Protocol::Http1, &[]).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // hyper makes progress only while the connection itself is polled.
        task::spawn_local(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            // The listener rejects unknown names as DNS rebinding, and accepts `localhost`.
            .header(header::HOST, "localhost")
            // No other request follows, so the listener can free the slot at once.
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .expect("all of it is valid");
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Waits like [`gone`](Self::gone), with the number of remaining sessions on standard error.
    async fn gone_with_progress(&self, wait: Duration) {
        let began = Instant::now();
        let mut gone = pin!(self.gone());
        loop {
            let left = self.ask(Method::GET, "/sessions?limit=1").await.ok();
            let left = left.and_then(|text| {
                let sessions: serde_json::Value = serde_json::from_str(&text).ok()?;
                sessions["total"].as_u64()
            });
            let left = match left {
                Some(1) => "1 session is left".to_owned(),
                Some(sessions) => format!("{sessions} sessions are left"),
                None => "no answer".to_owned(),
            };
            let waited = began.elapsed().as_secs_f64();
            let most = wait.as_secs_f64();
            // Overwrites the previous line.
            eprint!("\r\x1b[Kdraining: {left}; {waited:.0} of {most:.0} s");
            // Pinned outside of the loop: a timeout here only updates the line.
            if time::timeout(SHOW_AGAIN, gone.as_mut()).await.is_ok() {
                break;
            }
        }
        eprintln!("\r\x1b[Kgone after {:.1} s", began.elapsed().as_secs_f64());
    }

    /// Resolves when the draining process has ended, or another one is in its place.
    async fn gone(&self) {
        loop {
            match self.ask(Method::GET, "/readyz").await {
                Ok(_) => return,
                // Not ready for another reason: this process does not drain, so it is a new one.
                Err(NoResponse::Refused(_, problems)) if !problems.contains("drain") => return,
                // Refused connections and missing sockets mean an ended process; a full backlog,
                // which times out, does not.
                Err(NoResponse::Unreachable(DialError::Unreachable(error)))
                    if error.kind() != io::ErrorKind::TimedOut =>
                {
                    return;
                }
                Err(_) => time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Returns the address to connect to; a wildcard address becomes loopback.
    fn address(&self) -> Address {
        match &self.0 {
            ListenAddress::Tcp(address) => Address::Tcp {
                host: match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
                    IpAddr::V6(ip) if ip.is_unspecified() => "localhost".to_owned(),
                    ip => ip.to_string(),
                },
                port: address.port(),
            },
            ListenAddress::Unix(path) => Address::Unix(path.clone()),
        }
    }
}
