//! Keys of sessions.

use crate::{
    config::{
        section::{Row, Section, section},
        values::{
            BOOLEAN, COUNT32, Notation, OPTIONAL_TIME, POSITIVE, POSITIVE_TIME, SIZE, TIME,
            bounds::{COOLDOWN, QUEUE_BYTES},
            matchers::{MATCHERS, NEEDED_TRIGGERS, TRIGGERS},
            words::{ON_CLIENT_GONE, ON_TIMEOUT, ORDER, OVERFLOW, PRIORITY, RELEASE},
        },
    },
    session::{gate, hold, rules::Rule, tunnel},
    upstream::breaker,
};

section! {
    /// When the upstream application counts as ready, so that held messages are delivered. The
    /// three states are reached in this order. Each takes one matcher or a list, of which any one
    /// will do; a matcher has exactly one of these conditions:
    ///
    ///   { json = { "/type" = "ready" } }  JSON with these values (strings, numbers, true, false;
    ///                                     in a list: any of them) at these JSON pointers
    ///   { text = "ready" }                the message is exactly this
    ///   { prefix = "ready:" }             the message starts with this
    ///   { regex = "^ready (now|soon)$" }  the message contains this regular expression
    ///   { binary_prefix = "0a1b" }        the message starts with these bytes, in hex
    ///   { first = true }                  the first message, whatever it says
    ///   { on = "upgrade" }                the upstream has accepted the WebSocket
    ///   { on = "pong" }                   the upstream has answered the proxy's own ping
    ///
    /// Text and binary messages are compared alike.
    pub(in crate::config) GATE: gate::Settings = "route[].gate", websockets;

    /// The client's credentials are good.
    authenticated: NEEDED_TRIGGERS = { on = "upgrade" };
    /// A state on the way, for messages that the application needs before it is ready; see
    /// `release` below. An empty list: there is no such state.
    services_ready: TRIGGERS = [];
    /// The application can work. With the default nothing is held once it is connected, so name
    /// the message with which your application says that it is ready.
    ready: NEEDED_TRIGGERS = { on = "upgrade" };
    /// How long to wait after that, for applications that say it too early.
    settle: TIME = "0ms";
    /// How long all of this may take, counted from the client's handshake.
    timeout: POSITIVE_TIME = "30s";
    /// What happens then: "close" the client with 1013, or "open" the gate anyway.
    on_timeout: ON_TIMEOUT = "close";
    /// Whether the client sees the message that made the session ready.
    forward_ready: BOOLEAN = true;
    /// How much of a message matchers look at. What would need more does not match.
    inspect_bytes: SIZE = "64KiB";
}

section! {
    /// How messages of the client are held. For each kind of message one [[route.message]]; see
    /// the example at the end. The first that matches decides. Without a match a message has
    /// priority "normal" and is held until the session is ready.
    pub(in crate::config) MESSAGE: Rule = "route[].message[]", in_example, websockets;

    /// The messages that the rule is for: one matcher or a list, of which any one will do; those of
    /// the gate, but for `first` and `on`.
    match: MATCHERS = { json = { "/type" = "…" } } => matchers, required;
    /// Who is delivered first, and shed last; "critical" is never shed.
    priority: PRIORITY = "normal";
    /// The state of the session from which on the message goes upstream, though the session is not
    /// ready yet; "ready": not before it is.
    release: RELEASE = "ready";
}

section! {
    /// The queue of one session.
    pub(in crate::config) HOLD: hold::Settings = "route[].hold", websockets;

    /// The most messages in it, and the most accounted bytes, at least 1 KiB: frames as they were
    /// sent plus 128 bytes for each message.
    max_messages: POSITIVE = 1000;
    max_bytes: QUEUE_BYTES = "1MiB";
    /// What happens at either bound:
    ///   "backpressure"  stops reading the client, so that nothing is lost, however long a message is.
    ///                   A message with an early `release` behind a full queue is not seen either.
    ///   "shed"          gives up the oldest message of a lower priority than the new one.
    ///   "close"         closes the client with 1013.
    /// With the last two, a message that can never fit closes the client with 1009, and the message
    /// that is being received may take up to `max_bytes` beside the queue.
    overflow: OVERFLOW = "backpressure";
    /// The order of delivery: by "priority", or by "arrival" (priorities then only decide what is
    /// shed).
    order: ORDER = "priority";
    /// Messages that were held longer than this are dropped at delivery; "" is no limit.
    max_age: OPTIONAL_TIME = "";
    /// When the client leaves before the application is ready: "deliver" what it sent anyway, or
    /// "discard" it.
    on_client_gone: ON_CLIENT_GONE = "deliver";
    /// Delivered, the connection stays open until the application has said nothing for `linger`, and
    /// at most for `max_linger`: one that answers each message would stop at the first if the close came
    /// together with them.
    linger: TIME = "1s";
    max_linger: TIME = "10s";
}

section! {
    /// What happens after delivery, when bytes go straight through.
    pub(in crate::config) TUNNEL: tunnel::Settings = "route[].tunnel", websockets;

    /// A session without traffic for this long is called idle; nothing else happens.
    idle_after: POSITIVE_TIME = "10s";
    /// Without traffic in either direction for this long, a session is closed with 1001; "" is never.
    /// The proxy's own pings are no traffic, those of the client and the upstream are.
    idle_timeout: OPTIONAL_TIME = "";
    /// How long a client or an upstream may say nothing until the proxy sends it a ping, and how long
    /// it may then take to answer or say anything else. One that does not is gone: then the other
    /// one is closed, the client with 1014, the upstream with 1001. Less than what the proxies and
    /// balancers on the way allow a quiet connection, and more than an application may be busy;
    /// clients are asked while they are held, too. "" is never.
    ping_interval: OPTIONAL_TIME = "";
    /// By this age a session is closed with 1012, which means that the client may connect again, be
    /// it held or not, and at most a tenth earlier, so that not all come back at once. On
    /// Cloud Run, which cuts connections after at most 60 minutes, write "59m". "" is no limit.
    max_session_age: OPTIONAL_TIME = "";
    /// How long a closing handshake may take; then the connection is cut.
    close_timeout: POSITIVE_TIME = "5s";
}

section! {
    /// Clients begin their waits between attempts anew with each 101, so that one which is accepted
    /// and then closed comes back at once. When sessions of this route keep failing before they are
    /// ready, new ones are answered 503 with Retry-After instead. Only failures of the upstream count in
    /// which the client has no part: nobody listens until the gate's `timeout`, TLS fails, the handshake
    /// is answered wrongly, or the upstream is lost, or closes as one that fails, before it is ready. A
    /// status, and an upstream that is there and takes too long, do not. Plain requests are not affected.
    pub(in crate::config) BREAKER: breaker::Settings = "route[].breaker", websockets;

    /// How many sessions have to fail, and none to become ready meanwhile. 0: never mind.
    failures: COUNT32 = 5;
    /// How long then all are refused, at most "24h", before three are let through at a time. The first
    /// session that becomes ready ends it; one that fails soon begins it anew. While nobody listens the
    /// proxy itself tries each second, and lets clients in once somebody does. At random, it is up to a
    /// tenth longer.
    cooldown: COOLDOWN = "5s";
}

/// The one section whose keys are the user's own: statuses.
pub(in crate::config) static CLOSE_CODES: Section = Section::new(
    "route[].close_codes",
    concat!(
        " With which close code a client is closed when the upstream refuses the handshake with this", "\n",
        " HTTP status. Any other status: 1014, and such a client sees the status itself when it comes", "\n",
        " again within 30 s.", "\n",
    ),
    &[
        Row::new("401", "", || Notation::CloseCodes, "1008"),
        Row::new("403", "", || Notation::CloseCodes, "1008"),
    ],
)
.websockets()
.own_keys(|| Notation::CloseCodes);
