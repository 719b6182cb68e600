//! Sessions that run on a worker, and those that ended recently, for operators to inspect.
//!
//! # Invariants
//!
//! * Every session has its line in the log, even one that is forcibly closed with the process.
//! * A session is listed as running from the client's `101` to its end, however it ends, and is
//!   added to the totals of its route in the same instant: an observer sees it in exactly one of
//!   the two.
//! * At most [`MAX_REMEMBERED`] ended sessions are kept, the latest ones.
//! * An [id](LiveSession::id) belongs to one session of the process and is never reused.
//! * Adding and removing take constant time.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
};

use tokio::time::Instant;

use super::{WorkerState, route_stats::RouteStats};
use crate::{
    client_addr::ClientAddr,
    headers::request_id::RequestId,
    observability::{access_log, trace::Trace},
    route::Route,
    session::{Report, SessionStats},
    upstream::Address,
};

/// Capacity up to which the list never shrinks.
const MIN_SHRINK: usize = 64;

/// Number of ended sessions that are remembered.
pub const MAX_REMEMBERED: usize = 100;

/// Running session: its origin, and its statistics.
#[derive(Debug)]
pub struct LiveSession {
    id: u64,
    /// Position in the list.
    index: Cell<u32>,
    client: ClientAddr,
    is_http2: bool,
    /// Request id, digits of the trace if there is one, and path: one allocation for all.
    names: Box<str>,
    request_id_bytes: u8,
    has_trace: bool,
    route: Arc<Route>,
    route_label: Rc<str>,
    local: Rc<WorkerState>,
    record: SessionStats,
}

impl LiveSession {
    /// Number of the session, from 1.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Address of the client.
    #[must_use]
    pub const fn client(&self) -> ClientAddr {
        self.client
    }

    /// Path that the client requested, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        let trace_bytes = if self.has_trace { Trace::DIGITS } else { 0 };
        &self.names[usize::from(self.request_id_bytes) + trace_bytes..]
    }

    /// Returns whether the session is an HTTP/2 stream.
    #[must_use]
    pub const fn is_http2(&self) -> bool {
        self.is_http2
    }

    /// Id of the request that began the session.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.names[..usize::from(self.request_id_bytes)]
    }

    /// Trace that the session is part of.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        let digits = &self.names[usize::from(self.request_id_bytes)..];
        let digits = digits.get(..Trace::DIGITS).filter(|_| self.has_trace);
        digits.and_then(Trace::from_digits)
    }

    /// Route of the session.
    #[must_use]
    pub const fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Name of the route.
    #[must_use]
    pub fn route_label(&self) -> &str {
        &self.route_label
    }

    /// Address of the upstream that the session is or was connected to; for the log and the admin
    /// listener only.
    #[must_use]
    pub fn upstream_address(&self) -> Option<String> {
        self.record.connected_after()?;
        match &self.route.upstream.address {
            Address::Unix(path) => Some(format!("unix:{}", path.display())),
            Address::Tcp { .. } => Some(self.record.attempts().address()?.to_string()),
        }
    }

    /// Statistics so far.
    #[must_use]
    pub const fn record(&self) -> &SessionStats {
        &self.record
    }

    pub(crate) const fn local(&self) -> &Rc<WorkerState> {
        &self.local
    }
}

/// Session that has ended other than with the process.
#[derive(Debug)]
pub struct EndedSession {
    running: Rc<LiveSession>,
    report: Report,
    at: Instant,
}

impl EndedSession {
    /// The session, with its final statistics.
    #[must_use]
    pub const fn session(&self) -> &Rc<LiveSession> {
        &self.running
    }

    /// Report of the end.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Time of the end.
    #[must_use]
    pub const fn at(&self) -> Instant {
        self.at
    }
}

/// Origin of a new session.
pub(crate) struct SessionSource {
    pub(crate) client: ClientAddr,
    pub(crate) path: String,
    pub(crate) is_http2: bool,
    pub(crate) identity: RequestId,
    pub(crate) route: Arc<Route>,
}

/// Sessions of one worker.
#[derive(Debug, Default)]
pub struct Sessions {
    running: RefCell<Vec<Rc<LiveSession>>>,
    ended: RefCell<VecDeque<Rc<EndedSession>>>,
}

impl Sessions {
    /// Number of running sessions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.borrow().len()
    }

    /// Returns whether no session runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `look` for each running session, in no particular order.
    pub fn for_each(&self, look: impl FnMut(&Rc<LiveSession>)) {
        self.running.borrow().iter().for_each(look);
    }

    /// Calls `look` for each ended session that is remembered, in the order in which they ended.
    pub fn for_each_ended(&self, look: impl FnMut(&Rc<EndedSession>)) {
        self.ended.borrow().iter().for_each(look);
    }

    /// Returns the running session with this id.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<Rc<LiveSession>> {
        let sessions = self.running.borrow();
        sessions.iter().find(|it| it.id == id).map(Rc::clone)
    }

    /// Returns the ended session with this id, if it is remembered.
    #[must_use]
    pub fn find_ended(&self, id: u64) -> Option<Rc<EndedSession>> {
        let ended = self.ended.borrow();
        ended.iter().find(|it| it.running.id == id).map(Rc::clone)
    }

    /// Forgets the ended sessions, which keep the state of their worker alive.
    pub fn forget_ended(&self) {
        self.ended.take();
    }

    fn add(&self, running: &Rc<LiveSession>) {
        let mut sessions = self.running.borrow_mut();
        running.index.set(place(sessions.len()));
        sessions.push(Rc::clone(running));
    }

    fn remove(&self, running: &LiveSession) {
        let mut sessions = self.running.borrow_mut();
        let index = running.index.get() as usize;
        // Order does not matter, and `remove` would shift every session behind.
        sessions.swap_remove(index);
        if let Some(moved) = sessions.get(index) {
            moved.index.set(place(index));
        }
        // At a quarter, so that a number of sessions that hovers around a threshold does not
        // reallocate all the time.
        let capacity = sessions.capacity();
        if capacity > MIN_SHRINK && sessions.len() < capacity / 4 {
            sessions.shrink_to(capacity / 2);
        }
    }

    fn remember(&self, ended: Rc<EndedSession>) {
        let mut all = self.ended.borrow_mut();
        if all.len() == MAX_REMEMBERED {
            all.pop_front();
        }
        all.push_back(ended);
    }
}

fn place(index: usize) -> u32 {
    u32::try_from(index).expect("there are fewer sockets than that")
}

/// Entry of a session in the list of its worker, until it is dropped.
#[derive(Debug)]
pub(crate) struct SessionEntry {
    running: Rc<LiveSession>,
    /// Not part of the session that is remembered, because a route counts as in use while its
    /// counters are referenced.
    tally: Rc<RouteStats>,
    /// Whether the session has ended other than with the process.
    has_ended: bool,
}

impl SessionEntry {
    /// Adds a session whose client has just received its `101`.
    pub(crate) fn begin(origin: SessionSource, local: &Rc<WorkerState>) -> (Self, Rc<LiveSession>) {
        let request_id = origin.identity.id();
        let trace = origin.identity.trace();
        let digits = trace.map(|trace| trace.digits()).unwrap_or_default();
        let tally = local.tallies.of(&origin.route);
        let running = Rc::new(LiveSession {
            id: local.shared.session_ids.next(),
            index: Cell::default(),
            client: origin.client,
            is_http2: origin.is_http2,
            names: [request_id, &digits, &origin.path].concat().into(),
            request_id_bytes: u8::try_from(request_id.len()).expect("an id is short"),
            has_trace: !digits.is_empty(),
            route: origin.route,
            route_label: tally.shared_label(),
            local: Rc::clone(local),
            record: SessionStats::accepted(),
        });
        local.sessions.add(&running);
        let entry = Self {
            running: Rc::clone(&running),
            tally,
            has_ended: false,
        };
        (entry, running)
    }

    /// Ends the session: moves it to the ended ones and writes its line to the log.
    pub(crate) fn end(mut self, report: Report) {
        self.has_ended = true;
        self.leave(&report);
        let ended = EndedSession {
            running: Rc::clone(&self.running),
            report,
            at: Instant::now(),
        };
        self.running.local.sessions.remember(Rc::new(ended));
    }

    fn leave(&self, report: &Report) {
        let running = &self.running;
        running.local.sessions.remove(running);
        // In the same instant, without an `await` between: an observer sees the session in one of
        // the two.
        self.tally.change(|totals| {
            totals.add_record(&running.record);
            totals.add_end(&running.record, &report.cause);
        });
        let upstream_address = running.upstream_address();
        let origin = access_log::RequestSource {
            session: running.id,
            request_id: running.request_id(),
            trace: running.trace(),
            client: running.client,
            is_http2: running.is_http2,
            path: running.path(),
            route: running.route_label(),
            upstream_address: upstream_address.as_deref(),
        };
        access_log::session_ended(report, origin);
    }
}

impl Drop for SessionEntry {
    fn drop(&mut self) {
        // Dropped without a report: the process ends, and this is the session's only line in the
        // log.
        if !self.has_ended {
            self.leave(&self.running.record.abort());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use hyper::HeaderMap;

    use super::*;
    use crate::{
        config_file::Config,
        session::{EndReason, state::SessionState},
        state::process::ProcessState,
    };

    fn local() -> Rc<WorkerState> {
        let text = "[[route]]\nupstream = \"http://127.0.0.1:1\"";
        let config = Config::parse("test", text, &|_| None).unwrap();
        let shared = ProcessState::new(Arc::new(config));
        WorkerState::new(Arc::new(shared))
    }

    fn begin(local: &Rc<WorkerState>) -> SessionEntry {
        let origin = SessionSource {
            client: ClientAddr::Unix,
            path: "/".into(),
            is_http2: false,
            identity: RequestId::of(&HeaderMap::new(), false, &local.request_ids),
            route: Arc::clone(local.config().routes.iter().next().unwrap()),
        };
        SessionEntry::begin(origin, local).0
    }

    fn ids(local: &WorkerState) -> BTreeSet<u64> {
        let ids = RefCell::<BTreeSet<_>>::default();
        local
            .sessions
            .for_each(|it| ids.borrow_mut().extend([it.id()]));
        ids.into_inner()
    }

    #[test]
    fn a_session_is_listed_until_its_end_and_its_id_never_reused() {
        let local = local();
        let mut entries: Vec<_> = (0..5).map(|_| begin(&local)).collect();

        for index in [1, 0, 2] {
            drop(entries.remove(index));
        }
        entries.push(begin(&local));

        assert_eq!(ids(&local), [3, 4, 6].into());
        assert_eq!(local.sessions.find(4).map(|it| it.id()), Some(4));
        assert!(local.sessions.find(2).is_none());
        entries.clear();
        assert!(local.sessions.is_empty());
    }

    #[test]
    fn the_list_gives_memory_back() {
        let local = local();
        let mut entries: Vec<_> = (0..10_000).map(|_| begin(&local)).collect();

        entries.truncate(10);

        assert_eq!(local.sessions.len(), 10);
        assert!(local.sessions.running.borrow().capacity() <= 2 * MIN_SHRINK);
    }

    fn end(entry: SessionEntry) {
        let record = entry.running.record();
        let report = record.report(EndReason::Idle, SessionState::Processing);
        entry.end(report);
    }

    #[test]
    fn the_latest_ended_sessions_are_kept_until_forgotten() {
        let local = local();
        let (bound, more) = (MAX_REMEMBERED as u64, 7);
        for _ in 0..bound + more {
            end(begin(&local));
        }

        assert!(local.sessions.is_empty());
        let mut remembered = Vec::new();
        local
            .sessions
            .for_each_ended(|it| remembered.push(it.session().id()));
        assert!(remembered.into_iter().eq(1 + more..=bound + more));
        assert!(local.sessions.find_ended(more).is_none());
        let first = local.sessions.find_ended(more + 1).unwrap();
        assert_eq!(first.report().cause.name(), "idle_timeout");

        drop(first);
        local.sessions.forget_ended();
        assert_eq!(Rc::strong_count(&local), 1);
    }

    #[test]
    fn an_ended_session_is_kept_and_does_not_use_its_route() {
        let local = local();
        let is_in_use = || local.snapshot()["/"].is_in_use;
        let entry = begin(&local);
        assert!(is_in_use());

        end(entry);

        assert!(!is_in_use());
        let ended = local.sessions.find_ended(1).unwrap();
        assert_eq!(ended.session().route_label(), "/");
    }

    #[test]
    fn a_session_that_is_dropped_counts_as_aborted() {
        let local = local();
        drop(begin(&local));

        let snapshot = local.snapshot();

        let ended = &snapshot["/"].totals.ended;
        let aborted = ended.iter().find(|((_, name), _)| *name == "aborted");
        assert_eq!(aborted.map(|(_, count)| count), Some(1));
    }

    #[test]
    fn a_session_entry_is_small() {
        // With the two counts of the `Rc`, a size class of the allocator.
        let bytes = size_of::<LiveSession>() + 16;
        assert!(bytes <= 384, "{bytes}");
    }
}
