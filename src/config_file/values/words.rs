//! Words of which a key takes one.

use super::Words;
use crate::{
    observability::{FORMATS, Format, LEVELS, RequestLogging},
    route::{Accept, NonAscii, Underscores},
    session::{
        gate::OnTimeout,
        hold::{OnClientGone, Overflow},
        queue::Order,
        rules::{Priority, Release},
    },
    upstream::{protocol::Protocol, proxy_protocol::ProxyProtocolVersion},
};

pub(in crate::config_file) const LEVEL: Words<tracing::Level> = Words(&LEVELS);
pub(in crate::config_file) const FORMAT: Words<Format> = Words(&FORMATS);
pub(in crate::config_file) const REQUESTS: Words<RequestLogging> = Words(&[
    ("none", RequestLogging::None),
    ("errors", RequestLogging::Errors),
    ("all", RequestLogging::All),
]);

pub(in crate::config_file) const ACCEPT: Words<Accept> = Words(&[
    ("early", Accept::Early),
    ("after-upstream", Accept::AfterUpstream),
]);
pub(in crate::config_file) const PROXY_PROTOCOL: Words<Option<ProxyProtocolVersion>> = Words(&[
    ("", None),
    ("v1", Some(ProxyProtocolVersion::V1)),
    ("v2", Some(ProxyProtocolVersion::V2)),
]);
pub(in crate::config_file) const VERSION: Words<Protocol> =
    Words(&[("1.1", Protocol::Http1), ("2", Protocol::Http2)]);
pub(in crate::config_file) const UNDERSCORES: Words<Underscores> =
    Words(&[("drop", Underscores::Drop), ("pass", Underscores::Pass)]);
pub(in crate::config_file) const NON_ASCII: Words<NonAscii> =
    Words(&[("pass", NonAscii::Pass), ("refuse", NonAscii::Refuse)]);

pub(in crate::config_file) const ON_TIMEOUT: Words<OnTimeout> = Words(&[
    (OnTimeout::Close.name(), OnTimeout::Close),
    (OnTimeout::Open.name(), OnTimeout::Open),
]);
pub(in crate::config_file) const PRIORITY: Words<Priority> = Words(&[
    ("critical", Priority::Critical),
    ("high", Priority::High),
    ("normal", Priority::Normal),
    ("low", Priority::Low),
]);
pub(in crate::config_file) const RELEASE: Words<Release> = Words(&[
    ("authenticated", Release::Authenticated),
    ("services_ready", Release::ServicesReady),
    ("ready", Release::Ready),
]);
pub(in crate::config_file) const OVERFLOW: Words<Overflow> = Words(&[
    ("backpressure", Overflow::Backpressure),
    ("shed", Overflow::Shed),
    ("close", Overflow::Close),
]);
pub(in crate::config_file) const ORDER: Words<Order> =
    Words(&[("priority", Order::Priority), ("arrival", Order::Arrival)]);
pub(in crate::config_file) const ON_CLIENT_GONE: Words<OnClientGone> = Words(&[
    ("deliver", OnClientGone::Deliver),
    ("discard", OnClientGone::Discard),
]);
