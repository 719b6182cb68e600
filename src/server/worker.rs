//! Workers: one thread and one single-threaded runtime each.
//!
//! # Invariants
//!
//! * A worker that has ended still runs jobs until its last handle is dropped: its counts are not
//!   lost while others still drain, and it is not taken for stuck.

use std::{convert::Infallible, io, pin::pin, rc::Rc, sync::Arc, thread};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc,
};

use super::{
    Listener,
    acceptor::{Acceptor, Handed, Seat},
    timer_anchor::TimerAnchor,
};
use crate::{
    config_file::Config,
    limits::connections::WorkerConnections,
    state::{process::ProcessState, worker::WorkerState, worker_handle::Job},
};

/// Accepted connections that may wait for one worker to adopt them.
const MAX_ON_THE_WAY: usize = 256;

/// Threads of all workers.
pub(super) struct Workers(Vec<thread::JoinHandle<io::Result<()>>>);

impl Workers {
    /// Starts `config.workers` threads; the first one also accepts from `listeners`.
    ///
    /// When one ends, for whatever reason, all others drain. Each holds `alive` until it has ended;
    /// its thread lives until the other end of its `visits`, which are assigned in order, is
    /// dropped.
    pub(super) fn start(
        listeners: Vec<Listener>,
        config: &Config,
        shared: &Arc<ProcessState>,
        alive: &mpsc::Sender<Infallible>,
        visits: Vec<Visits>,
    ) -> io::Result<Self> {
        let (seats, inboxes): (Vec<_>, Vec<_>) = (0..config.workers.get()).map(seat).unzip();
        let mut acceptor = Some(Acceptor::new(listeners, seats.clone()));
        let start_one = |(index, ((inbox, seat), visits)): (usize, ((Inbox, Seat), Visits))| {
            let worker = Worker {
                acceptor: acceptor.take(),
                inbox,
                visits,
                count: seat.count,
            };
            let (shared, alive) = (Arc::clone(shared), alive.clone());
            thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || worker.live(shared, alive))
        };
        let threads = inboxes.into_iter().zip(seats).zip(visits);
        let threads = threads.enumerate().map(start_one);
        threads.collect::<io::Result<_>>().map(Self)
    }

    /// Waits for threads of workers that have ended and whose handles are dropped.
    pub(super) fn join(self) -> io::Result<()> {
        let mut result = Ok(());
        for thread in self.0 {
            let ended = thread.join();
            result =
                result.and(ended.unwrap_or_else(|_| Err(io::Error::other("a worker panicked"))));
        }
        result
    }
}

type Inbox = mpsc::Receiver<Handed>;

/// Jobs that other threads run on a worker.
type Visits = mpsc::Receiver<Job>;

fn seat(_index: usize) -> (Seat, Inbox) {
    let (handed, inbox) = mpsc::channel(MAX_ON_THE_WAY);
    let count = Arc::default();
    (Seat { count, handed }, inbox)
}

struct Worker {
    acceptor: Option<Acceptor>,
    /// The acceptor holds a sender, so that this never ends before the drain.
    inbox: Inbox,
    visits: Visits,
    count: Arc<WorkerConnections>,
}

impl Worker {
    /// Serves while it holds `alive`, then runs jobs until the last handle is dropped.
    fn live(
        mut self,
        shared: Arc<ProcessState>,
        alive: mpsc::Sender<Infallible>,
    ) -> io::Result<()> {
        let drain_on_end = shared.drain().begin_on_drop();
        let local = WorkerState::new(shared);
        let result = self.run(&local);
        // A worker that failed drains the others, and `run_from` counts it as ended from here on.
        drop((drain_on_end, alive));
        while let Some(visit) = self.visits.blocking_recv() {
            visit.pay(&local);
        }
        local.sessions().forget_ended();
        result
    }

    fn run(&mut self, local: &Rc<WorkerState>) -> io::Result<()> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())?;
        let result = runtime.block_on(self.serve(local));
        // Waiting for a name resolution in flight would delay the end of the process.
        runtime.shutdown_background();
        result
    }

    /// Serves until the drain is over; the runtime drops whatever is left.
    async fn serve(&mut self, local: &Rc<WorkerState>) -> io::Result<()> {
        let pacer = TimerAnchor::new(Arc::clone(&self.count));
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.start(local, &pacer)?;
        }
        loop {
            tokio::select! {
                () = local.drain().begun() => break,
                Some(handed) = self.inbox.recv() => take_over(handed, local, &pacer),
                Some(visit) = self.visits.recv() => visit.pay(local),
            }
        }
        self.inbox.close();
        // Connections in the queue count already, and their clients may have sent a request.
        while let Some(handed) = self.inbox.recv().await {
            take_over(handed, local, &pacer);
        }
        // The grace period is over at a deadline that all workers share.
        let is_empty = async {
            tokio::select! {
                () = self.count.emptied() => true,
                () = local.drain().over() => false,
            }
        };
        if !answering(&mut self.visits, local, is_empty).await {
            let connections = self.count.get();
            tracing::warn!(connections, "forcibly closed at the end of the drain");
            local.cut_off();
        }
        Ok(())
    }
}

fn take_over(handed: Handed, local: &Rc<WorkerState>, pacer: &TimerAnchor) {
    match handed.register() {
        Ok(connection) => connection.spawn(local, pacer),
        Err(error) => tracing::warn!(%error, "cannot adopt a connection"),
    }
}

/// Awaits `future`, running jobs meanwhile.
async fn answering<F: Future>(
    visits: &mut Visits,
    local: &Rc<WorkerState>,
    future: F,
) -> F::Output {
    let mut future = pin!(future);
    loop {
        tokio::select! {
            output = &mut future => return output,
            Some(visit) = visits.recv() => visit.pay(local),
        }
    }
}
