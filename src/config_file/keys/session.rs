//! Keys of sessions.

use crate::{
    config::BreakerSettings,
    config_file::{
        section::{Row, Section, section},
        values::{
            BOOLEAN, COUNT32, Notation, OPTIONAL_TIME, POSITIVE, POSITIVE_TIME, SIZE, TIME,
            bounds::{COOLDOWN, QUEUE_BYTES},
            matchers::{MATCHERS, NEEDED_TRIGGERS, TRIGGERS},
            words::{ON_CLIENT_GONE, ON_TIMEOUT, ORDER, OVERFLOW, PRIORITY, RELEASE},
        },
    },
    session::{gate, hold, rules::Rule, timeouts},
};

section! {
    /// Readiness of the upstream application, after which held messages are delivered. The three states
    /// are reached in this order. Each takes one matcher or a list, of which any one is enough; a matcher
    /// has exactly one of these conditions:
    ///
    ///   { json = { "/type" = "ready" } }  JSON with these values (strings, numbers, true, false;
    ///                                     in a list: any of them) at these JSON pointers
    ///   { text = "ready" }                the message is exactly this
    ///   { prefix = "ready:" }             the message starts with this
    ///   { regex = "^ready (now|soon)$" }  the message contains this regular expression
    ///   { binary_prefix = "0a1b" }        the message starts with these bytes, in hex
    ///   { first = true }                  the first message, whatever its content
    ///   { on = "upgrade" }                the upstream has accepted the WebSocket
    ///   { on = "pong" }                   the upstream has answered the proxy's own ping
    ///
    /// Text and binary messages are compared alike.
    pub(in crate::config_file) GATE: gate::Settings = "route[].gate", websockets;

    /// The client's credentials are accepted.
    authenticated: NEEDED_TRIGGERS = { on = "upgrade" };
    /// An intermediate state, for messages that the application needs before it is ready; see `release`
    /// below. An empty list: no such state.
    services_ready: TRIGGERS = [];
    /// The application can work. With the default nothing is held once it is connected, so name the
    /// message with which your application says that it is ready.
    ready: NEEDED_TRIGGERS = { on = "upgrade" };
    /// Delay after that, for applications that say it too early.
    settle: TIME = "0ms";
    /// Time for all of this, from the client's handshake.
    timeout: POSITIVE_TIME = "30s";
    /// Action at the timeout: "close" the client with 1013, or "open" the gate anyway.
    on_timeout: ON_TIMEOUT = "close";
    /// Relays the message that made the session ready to the client.
    forward_ready: BOOLEAN = true;
    /// Part of a message that matchers see. A condition that would need more does not match.
    inspect_bytes: SIZE = "64KiB";
}

section! {
    /// Rules for held messages: one [[route.message]] for each kind of message; see the example at the
    /// end. The first one that matches decides. Without a match a message has priority "normal" and is
    /// held until the session is ready.
    pub(in crate::config_file) MESSAGE: Rule = "route[].message[]", in_example, websockets;

    /// Messages to which the rule applies: one matcher or a list, of which any one is enough; those of
    /// the gate, except `first` and `on`.
    match: MATCHERS = { json = { "/type" = "…" } } => matchers, required;
    /// Order of delivery, and in reverse of shedding; "critical" is never shed.
    priority: PRIORITY = "normal";
    /// State of the session from which on the message goes upstream, even if the session is not ready
    /// yet; "ready": not before it is.
    release: RELEASE = "ready";
}

section! {
    /// The queue of one session.
    pub(in crate::config_file) HOLD: hold::Settings = "route[].hold", websockets;

    /// Most messages in it, and most accounted bytes, at least 1 KiB: frames as they were sent plus 128
    /// bytes for each message.
    max_messages: POSITIVE = 1000;
    max_bytes: QUEUE_BYTES = "1MiB";
    /// Action at either limit:
    ///   "backpressure"  stops reading the client, so that nothing is lost, however long a message is.
    ///                   A message with an early `release` behind a full queue is not seen either.
    ///   "shed"          drops the oldest message of a lower priority than the new one.
    ///   "close"         closes the client with 1013.
    /// With the last two, a message that can never fit closes the client with 1009, and the message
    /// that is being received may take up to `max_bytes` beside the queue.
    overflow: OVERFLOW = "backpressure";
    /// Order of delivery: by "priority", or by "arrival" (priorities then only decide what is shed).
    order: ORDER = "priority";
    /// Age at which held messages are dropped at delivery; "" is no limit.
    max_age: OPTIONAL_TIME = "";
    /// Action when the client leaves before the application is ready: "deliver" what it sent anyway, or
    /// "discard" it.
    on_client_gone: ON_CLIENT_GONE = "deliver";
    /// After that delivery the connection stays open until the application has sent nothing for `linger`,
    /// and at most for `max_linger`: an application that responds to each message would stop at the first
    /// if the close arrived together with the messages.
    linger: TIME = "1s";
    max_linger: TIME = "10s";
}

section! {
    /// The tunnel, which relays bytes after delivery.
    pub(in crate::config_file) TUNNEL: timeouts::Settings = "route[].tunnel", websockets;

    /// Time without traffic after which a session is shown as idle; it has no other effect.
    idle_after: POSITIVE_TIME = "10s";
    /// Time without traffic in either direction after which a session is closed with 1001; "" is never.
    /// The proxy's own pings are not traffic, those of the client and the upstream are.
    idle_timeout: OPTIONAL_TIME = "";
    /// Silence of a client or an upstream after which the proxy pings it, and time in which it then has
    /// to answer or send anything else. A side that does not is gone, and the other one is closed: the
    /// client with 1014, the upstream with 1001. Less than the idle timeout of the proxies and balancers
    /// on the way, and more than an application may be busy; clients are pinged while they are held as
    /// well. "" is never.
    ping_interval: OPTIONAL_TIME = "";
    /// Age by which a session is closed with 1012, which tells the client to reconnect, held or not, and
    /// at most a tenth earlier, so that not all reconnect at once. On Cloud Run, which cuts connections
    /// after at most 60 minutes, write "59m". "" is no limit.
    max_session_age: OPTIONAL_TIME = "";
    /// Time for a closing handshake; then the connection is forcibly closed.
    close_timeout: POSITIVE_TIME = "5s";
}

section! {
    /// Clients reset their backoff with each 101, so one that is accepted and then closed reconnects at
    /// once. When sessions of this route keep failing before they are ready, new ones get 503 with
    /// Retry-After instead. Only failures of the upstream count in which the client has no part: it does
    /// not listen until the gate's `timeout`, TLS fails, its response to the handshake is invalid, or it
    /// is lost, or closes as a failing one does, before it is ready. A valid status, or an upstream that
    /// is connected and takes too long, does not count; nor does, where a message rule has a `release`
    /// before readiness, anything after the upstream's 101. Plain requests are not affected.
    pub(in crate::config_file) BREAKER: BreakerSettings = "route[].breaker", websockets;

    /// Sessions that have to fail, with none becoming ready meanwhile. 0 disables the breaker.
    failures: COUNT32 = 5;
    /// Time during which all are refused, at most "24h", before three are admitted at a time. The first
    /// session that becomes ready ends it; one that fails soon restarts it. While the upstream does not
    /// listen, the proxy itself tries each second, and admits clients as soon as it connects. It is up to
    /// a tenth longer, at random.
    cooldown: COOLDOWN = "5s";
}

/// The one section whose keys are the user's own: statuses.
pub(in crate::config_file) static CLOSE_CODES: Section = Section::new(
    "route[].close_codes",
    concat!(
        " Close code for a client when the upstream refuses the handshake with this HTTP status. Any other", "\n",
        " status: 1014, and such a client sees the status itself when it reconnects within 30 s.", "\n",
    ),
    &[
        Row::new("401", "", || Notation::CloseCodes, "1008"),
        Row::new("403", "", || Notation::CloseCodes, "1008"),
    ],
)
.websockets()
.own_keys(|| Notation::CloseCodes);
