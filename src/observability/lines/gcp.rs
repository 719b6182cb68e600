//! Log lines in the format that Cloud Logging reads from the standard output of Cloud Run and GKE
//! (<https://cloud.google.com/logging/docs/structured-logging>).
//!
//! | here | there |
//! |---|---|
//! | `timestamp`, `level` | `time`, `severity` |
//! | `trace_id`, `span_id`, `trace_sampled` | `logging.googleapis.com/…`; without a project `trace_id` stays |
//! | `method`, `path`, `status`, `client`, `http`, `duration_ms`, `response_bytes` of a request | members of `httpRequest` |
//! | the service, its revision and its configuration | `logging.googleapis.com/labels` |

use std::{
    fmt::{self, Debug, Display},
    io::{self, BufRead, BufReader, Read, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::json::Object;

/// Address of the metadata server on Google's machines.
const METADATA_HOST: &str = "metadata.google.internal:80";

/// Timeout of the metadata server, for each of connecting, writing and reading.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// Facts about the platform that the process runs on.
#[derive(Clone, Default)]
pub struct Platform {
    project: Arc<OnceLock<String>>,
    /// Address to look the project up at, if it is not known.
    metadata_host: Option<String>,
    labels: Vec<(&'static str, String)>,
}

impl Debug for Platform {
    /// Shows the labels alone: the project may become known later.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.labels.fmt(formatter)
    }
}

impl Platform {
    /// Reads the environment: the project in `GOOGLE_CLOUD_PROJECT`; on Cloud Run `K_SERVICE`,
    /// `K_REVISION` and `K_CONFIGURATION`, and without a project in the environment also the
    /// address of the metadata server, which `GCE_METADATA_HOST` may override.
    #[must_use]
    pub fn of(environment: &dyn Fn(&str) -> Option<String>) -> Self {
        let variable = |name| environment(name).filter(|value| !value.is_empty());
        let project = variable("GOOGLE_CLOUD_PROJECT");
        let labels = [
            ("service", "K_SERVICE"),
            ("revision", "K_REVISION"),
            ("configuration", "K_CONFIGURATION"),
        ];
        let labels = labels.into_iter();
        let labels: Vec<_> = labels
            .filter_map(|(label, name)| Some((label, variable(name)?)))
            .collect();
        let is_cloud_run = labels.iter().any(|(label, _)| *label == "service");
        let metadata_host = || {
            let host = variable("GCE_METADATA_HOST");
            host.unwrap_or_else(|| METADATA_HOST.to_owned())
        };
        Self {
            metadata_host: (project.is_none() && is_cloud_run).then(metadata_host),
            project: Arc::new(project.map_or_else(OnceLock::new, OnceLock::from)),
            labels,
        }
    }

    /// Looks up the project at the metadata server, if there is one and the project is unknown, on
    /// a thread of its own; until then lines have the bare trace id.
    pub(in crate::observability) fn look_up_project(&self) -> io::Result<()> {
        let Some(host) = self.metadata_host.clone() else {
            return Ok(());
        };
        let project = Arc::clone(&self.project);
        let look_up = move || match ask_project(&host) {
            Ok(id) => {
                let _known = project.set(id);
            }
            Err(error) => {
                tracing::debug!(%error, "the metadata server does not say which project this is");
            }
        };
        let thread = thread::Builder::new().name("metadata".to_owned());
        thread.spawn(look_up).map(drop)
    }
}

/// Requests the project's id from the metadata server.
fn ask_project(host: &str) -> io::Result<String> {
    /// More than the longest valid response.
    const MAX_ANSWER_BYTES: u64 = 4096;
    let host = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let address = host.to_socket_addrs()?.next();
    let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&address, METADATA_TIMEOUT)?;
    stream.set_read_timeout(Some(METADATA_TIMEOUT))?;
    stream.set_write_timeout(Some(METADATA_TIMEOUT))?;
    // HTTP/1.0, so that the response is not chunked and ends with the connection.
    let request = format!(
        "GET /computeMetadata/v1/project/project-id HTTP/1.0\r\nHost: {host}\r\n\
         Metadata-Flavor: Google\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = BufReader::new(stream.take(MAX_ANSWER_BYTES));
    let mut status = String::new();
    answer.read_line(&mut status)?;
    let mut rest = String::new();
    answer.read_to_string(&mut rest)?;
    let body = rest.split_once("\r\n\r\n").map(|(_, body)| body.trim());
    let is_good = status.split(' ').nth(1) == Some("200");
    let project = body.filter(|body| is_good && is_project(body));
    project
        .map(str::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not a project"))
}

/// Returns whether `id` looks like a project id; some old ones have a domain prefix.
fn is_project(id: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte);
    !id.is_empty() && id.len() <= 128 && id.bytes().all(is_legal)
}

/// Writes an event that happened at `time`.
pub(crate) fn write(line: &mut String, time: &str, event: &Event<'_>, platform: &Platform) {
    let metadata = event.metadata();
    let mut request = String::new();
    let mut labels = String::new();
    let mut object = Object::begin(line);
    object.text("severity", severity(*metadata.level()));
    object.text("time", time);
    // Input that never became a request has a version but no path.
    let is_request = metadata.fields().field("http").is_some();
    let mut fields = GcpFields {
        request: is_request.then(|| Object::members(&mut request)),
        project: platform.project.get().map(String::as_str),
        object: &mut object,
    };
    event.record(&mut fields);
    object.text("target", metadata.target());
    object.object("httpRequest", &request);
    let mut members = Object::members(&mut labels);
    for (label, value) in &platform.labels {
        members.text(label, value);
    }
    object.object("logging.googleapis.com/labels", &labels);
    object.end();
}

const fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        // Cloud Logging has no level below this.
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// Visitor that puts each field where Cloud Logging expects it.
struct GcpFields<'a, 'line> {
    object: &'a mut Object<'line>,
    /// Members of `httpRequest`; `None`: the event is not about a request.
    request: Option<Object<'a>>,
    project: Option<&'a str>,
}

impl GcpFields<'_, '_> {
    fn text(&mut self, name: &str, value: impl Display) {
        if let Some(request) = &mut self.request {
            match name {
                "method" => return request.text("requestMethod", value),
                "path" => return request.text("requestUrl", value),
                "http" => return request.text("protocol", format_args!("HTTP/{value}")),
                "client" => return self.client(&value.to_string()),
                _ => {}
            }
        }
        match (name, self.project) {
            // Only in this form does Cloud Logging link a line to its trace.
            ("trace_id", Some(project)) => {
                let trace = format_args!("projects/{project}/traces/{value}");
                self.object.text("logging.googleapis.com/trace", trace);
            }
            ("span_id", _) => self.object.text("logging.googleapis.com/spanId", value),
            _ => self.object.text(name, value),
        }
    }

    /// Writes the client's address: `remoteIp` takes an IP address without a port.
    fn client(&mut self, client: &str) {
        let address = client.parse::<SocketAddr>().map(|address| address.ip());
        match (
            address.or_else(|_| client.parse::<IpAddr>()),
            &mut self.request,
        ) {
            (Ok(address), Some(request)) => request.text("remoteIp", address),
            _ => self.object.text("client", client),
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        if let Some(request) = &mut self.request {
            match name {
                "status" => return request.plain("status", value),
                // Durations and 64-bit integers are strings in the JSON form of protocol buffers.
                "duration_ms" => {
                    let (seconds, millis) = (value / 1000, value % 1000);
                    return request.text("latency", format_args!("{seconds}.{millis:03}s"));
                }
                "response_bytes" => return request.text("responseSize", value),
                _ => {}
            }
        }
        self.object.plain(name, value);
    }
}

impl Visit for GcpFields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.text(field.name(), format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.object.plain(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        let name = match field.name() {
            "trace_sampled" => "logging.googleapis.com/trace_sampled",
            name => name,
        };
        self.object.plain(name, value);
    }
}
