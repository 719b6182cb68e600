//! The admin listener's own thread.
//!
//! It answers while all workers are busy, from before the first client connection is
//! accepted until the last one has ended.
//!
//! # Invariants
//!
//! * However many connections do not read or do not ask, the next one is served: it gets the
//!   place of another one ([`Admin::welcome`]).
//! * What is accepted gets to say what it asks for before the next one is accepted.

use std::{io, pin::pin, rc::Rc, sync::Arc, thread, time::Duration};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{Semaphore, oneshot},
    task, time,
};
use tokio_util::sync::CancellationToken;

use super::listener::{Listener, OpenListener};
use crate::{
    admin::{self, Admin, Process},
    transport::Transport,
};

/// How many connections there may be at once: more than have a place, for those that are being
/// closed.
const MAX_CONNECTIONS: u32 = 192;

/// How long answers under way may take at the end of the process.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long accepting pauses when the process lacks something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The thread; it ends some time after this is dropped.
pub(super) struct AdminThread {
    thread: thread::JoinHandle<()>,
    stop: CancellationToken,
    _stop_on_drop: tokio_util::sync::DropGuard,
}

impl AdminThread {
    /// Starts it; once this returns it accepts.
    pub(super) async fn start(listener: Listener, process: Process) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (started, has_started) = oneshot::channel();
        let thread = thread::Builder::new().name("admin".to_owned()).spawn({
            let stop = stop.clone();
            move || run(listener, process, &stop, started)
        })?;
        // Only a thread that panics says nothing.
        let failed = |_| Err(io::Error::other("the admin thread panicked"));
        has_started.await.unwrap_or_else(failed)?;
        Ok(Self {
            thread,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Ends it, and waits for that.
    pub(super) fn stop(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            tracing::error!("the admin thread panicked");
        }
    }
}

fn run(
    listener: Listener,
    process: Process,
    stop: &CancellationToken,
    started: oneshot::Sender<io::Result<()>>,
) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    runtime.block_on(async {
        let listener = match listener.register() {
            Ok(listener) => listener,
            Err(error) => return drop(started.send(Err(error))),
        };
        let _ = started.send(Ok(()));
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
        let admin = Admin::new(process, stop.clone());
        let mut accepting = pin!(accept_all(&listener, &places, &admin));
        tokio::select! {
            () = stop.cancelled() => {}
            () = &mut accepting => {}
        }
        let ended = places.acquire_many(MAX_CONNECTIONS);
        let _ = time::timeout(LAST_WORDS, ended).await;
    });
    runtime.shutdown_background();
}

async fn accept_all(listener: &OpenListener, places: &Arc<Semaphore>, admin: &Rc<Admin>) {
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept admin connections");
                time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let visitor = admin.welcome().await;
        // Whoever had a place and lost it is gone as soon as its task runs.
        let running = Arc::clone(places).acquire_owned().await;
        let running = running.expect("nobody closes it");
        let socket = Transport::from(socket);
        let served = admin::serve(socket, peer, Rc::clone(admin), visitor);
        task::spawn_local(async move {
            served.await;
            drop(running);
        });
        task::yield_now().await;
    }
}
