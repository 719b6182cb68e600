//! `/events`: what the page for people shows, once a second, as server-sent events.
//!
//! Each event is one line of JSON; [`snapshot`] says what is in it.
//!
//! # Invariants
//!
//! * Nothing is asked of the workers while nobody listens, and once a second however many do.
//! * A listener that does not read misses events; nothing is kept for it but the latest.

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
    answer::{self, Body},
    snapshot,
};

/// How often there is an event.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many may listen at once: they must not take all connections.
const MAX_LISTENERS: usize = 16;

/// What a stream of them is called (HTML, "Server-sent events").
const MEDIA_TYPE: &str = "text/event-stream";

/// What a browser does when the connection is lost.
const RETRY: &[u8] = b"retry: 2000\n\n";

/// Who listens, and what they get.
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

/// `/events`.
pub(super) fn listen(admin: &Rc<Admin>) -> Response<Body> {
    let Events {
        latest,
        is_publishing,
    } = &admin.events;
    if latest.receiver_count() >= MAX_LISTENERS {
        let text = format!("{MAX_LISTENERS} others listen already");
        return answer::text(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let mut listener = latest.subscribe();
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
    answer::with(StatusCode::OK, MEDIA_TYPE, body)
}

/// Whether `response` is a stream of events, which ends when whoever listens goes.
pub(super) fn is_stream(response: &Response<Body>) -> bool {
    let media_type = response.headers().get(header::CONTENT_TYPE);
    media_type.is_some_and(|media_type| media_type == MEDIA_TYPE)
}

/// Makes an event every second until nobody listens.
async fn publish(admin: Rc<Admin>) {
    let mut ticks = time::interval(INTERVAL);
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
    // Whoever comes next begins anew.
    let retry = Bytes::from_static(RETRY);
    admin.events.latest.send_replace(retry);
    admin.events.is_publishing.set(false);
}
