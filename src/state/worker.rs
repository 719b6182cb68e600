//! State of one worker that its connections share.

pub mod route_stats;
pub mod sessions;

use std::{cell::Cell, rc::Rc, sync::Arc};

use arc_swap::Guard;

use self::{route_stats::WorkerRouteStats, sessions::Sessions};
use super::process::ProcessState;
use crate::{
    config_file::Config,
    headers::request_id,
    http_client::pool::Pools,
    limits::{drain::Drain, open_connections::Connections, per_ip::Addresses},
    local_reply::rejections::Rejections,
};

/// State that the connections of one worker share.
#[derive(Debug)]
pub struct WorkerState {
    pub(crate) shared: Arc<ProcessState>,
    pub(crate) pools: Pools,
    pub(crate) sessions: Sessions,
    pub(crate) tallies: WorkerRouteStats,
    pub(crate) request_ids: request_id::RequestIds,
    /// Whether unfinished work is about to be dropped, so that it is logged as forcibly closed.
    pub(crate) is_cut_off: Rc<Cell<bool>>,
}

impl WorkerState {
    /// Creates the state of a worker that has served nothing yet.
    #[must_use]
    pub fn new(shared: Arc<ProcessState>) -> Rc<Self> {
        Rc::new(Self {
            shared,
            pools: Pools::default(),
            sessions: Sessions::default(),
            tallies: WorkerRouteStats::default(),
            request_ids: request_id::RequestIds::default(),
            is_cut_off: Rc::default(),
        })
    }

    /// Records that unfinished work is about to be dropped.
    pub fn cut_off(&self) {
        self.is_cut_off.set(true);
    }

    /// Current configuration of the process.
    #[must_use]
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.shared.config()
    }

    /// Open connections and sessions of each client address.
    #[must_use]
    pub fn addresses(&self) -> &Arc<Addresses> {
        &self.shared.addresses
    }

    /// Requests and connections that were rejected, by reason.
    #[must_use]
    pub fn rejections(&self) -> &Rejections {
        &self.shared.rejections
    }

    /// Connections of the process.
    #[must_use]
    pub fn connections(&self) -> &Arc<Connections> {
        &self.shared.connections
    }

    /// Sessions that run on this worker.
    #[must_use]
    pub const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Drain of the process.
    #[must_use]
    pub fn drain(&self) -> &Drain {
        &self.shared.session.drain
    }
}
