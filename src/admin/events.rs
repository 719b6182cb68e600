//! `/events`: snapshots for the dashboard, once a second, as server-sent events.
//!
//! Each event is one line of JSON, documented at [`snapshot`].
//!
//! # Invariants
//!
//! * Workers are queried only while there is a listener, and once a second for any number of them.
//! * A listener that does not read misses events: only the latest one is kept.

use std::{cell::Cell, convert::Infallible, rc::Rc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::{Response, StatusCode, body::Frame, header};
use tokio::{
    sync::watch,
    task,
    time::{self, MissedTickBehavior},
};

use super::{
    Admin,
    response::{self, Body},
    snapshot,
};

/// Interval between events.
const INTERVAL: Duration = Duration::from_secs(1);

/// Concurrent listeners: they must not take all slots.
const MAX_LISTENERS: usize = 16;

/// Media type of a stream (HTML, "Server-sent events").
const MEDIA_TYPE: &str = "text/event-stream";

/// First bytes of a stream: the delay before a browser reconnects.
const RETRY: &[u8] = b"retry: 2000\n\n";

/// The listeners and their latest event.
#[derive(Debug)]
pub(super) struct Events {
    latest: watch::Sender<Bytes>,
    is_publishing: Cell<bool>,
}

impl Default for Events {
    fn default() -> Self {
        let (latest, _) = watch::channel(Bytes::from_static(RETRY));
        Self {
            latest,
            is_publishing: Cell::new(false),
        }
    }
}

/// Responds to `/events` with a stream.
pub(super) fn listen(admin: &Rc<Admin>) -> Response<Body> {
    let Events {
        latest,
        is_publishing,
    } = &admin.events;
    if latest.receiver_count() >= MAX_LISTENERS {
        let text = format!("{MAX_LISTENERS} others listen already");
        return response::text(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let mut listener = latest.subscribe();
    // A new listener gets the latest event at once instead of waiting for the next second.
    listener.mark_changed();
    if !is_publishing.replace(true) {
        task::spawn_local(publish(Rc::clone(admin)));
    }
    let stop = admin.stop.clone();
    let events = stream::unfold((listener, stop), |(mut listener, stop)| async {
        stop.run_until_cancelled(listener.changed()).await?.ok()?;
        let event = listener.borrow_and_update().clone();
        let frame = Ok::<_, Infallible>(Frame::data(event));
        Some((frame, (listener, stop)))
    });
    let body = Box::pin(StreamBody::new(events));
    response::with(StatusCode::OK, MEDIA_TYPE, body)
}

/// Returns whether `response` is a stream, which ends only when the listener leaves.
pub(super) fn is_stream(response: &Response<Body>) -> bool {
    let media_type = response.headers().get(header::CONTENT_TYPE);
    media_type.is_some_and(|media_type| media_type == MEDIA_TYPE)
}

/// Publishes an event per second until no listener is left.
async fn publish(admin: Rc<Admin>) {
    let mut ticks = time::interval(INTERVAL);
    // A slow snapshot must not be followed by a burst of them.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        if admin.events.latest.receiver_count() == 0 {
            break;
        }
        let (snapshot, totals) = snapshot::take(&admin, before.as_ref()).await;
        before = Some(totals);
        let event = Bytes::from(format!("data: {snapshot}\n\n"));
        admin.events.latest.send_replace(event);
    }
    // The next listener must not begin with an old event.
    let retry = Bytes::from_static(RETRY);
    admin.events.latest.send_replace(retry);
    // Nothing was awaited since the count was read, so no listener can have come in between.
    admin.events.is_publishing.set(false);
}
