//! The admin listener's own thread.
//!
//! It responds while all workers are busy, from before the first client connection is accepted
//! until after the last one has ended.
//!
//! # Invariants
//!
//! * No number of idle or stalled connections locks an operator out: the next connection takes the
//!   slot of another one ([`Admin::welcome`]).
//! * An accepted connection is polled before the next one is accepted, so that a request that has
//!   arrived is read first.

use std::{io, pin::pin, rc::Rc, sync::Arc, thread, time::Duration};

use socket2::SockRef;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::{Semaphore, oneshot},
    task, time,
};
use tokio_util::sync::CancellationToken;

use super::listener::{AcceptedSocket, Listener, OpenListener};
use crate::{
    admin::{self, Admin, Process},
    transport::{Transport, descriptors},
};

/// Concurrent connections: more than there are slots, for those that are being closed.
const MAX_CONNECTIONS: u32 = 192;

/// Time for responses in flight at the end of the process.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Bytes of responses that the kernel keeps for a client that does not read, doubled by Linux.
const SEND_BUFFER: usize = 64 * 1024;

/// Pause after an `accept` that failed for want of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Handle of the thread, which ends soon after this is dropped.
pub(super) struct AdminThread {
    thread: thread::JoinHandle<()>,
    stop: CancellationToken,
    _stop_on_drop: tokio_util::sync::DropGuard,
}

impl AdminThread {
    /// Starts the thread; once this returns, the listener accepts.
    pub(super) async fn start(listener: Listener, process: Process) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (started, has_started) = oneshot::channel();
        let thread = thread::Builder::new().name("admin".to_owned()).spawn({
            let stop = stop.clone();
            move || run(listener, process, &stop, started)
        })?;
        // The sender is dropped without a value only by a panic.
        let failed = |_| Err(io::Error::other("the admin thread panicked"));
        has_started.await.unwrap_or_else(failed)?;
        Ok(Self {
            thread,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// Stops the thread and waits for its end.
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
    // Of the thread's own runtime, so that busy workers delay no response.
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

/// Has the kernel take little of what a client does not read; by default it takes megabytes, and so
/// many responses, before the next write waits.
fn bound_unread(socket: &AcceptedSocket) {
    // It fails for a client that is gone already, which its first read will tell.
    let _ = SockRef::from(socket).set_send_buffer_size(SEND_BUFFER);
}

async fn accept_all(listener: &OpenListener, places: &Arc<Semaphore>, admin: &Rc<Admin>) {
    loop {
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept admin connections");
                if descriptors::is_shortage(&error) && admin.free_a_descriptor() {
                    // Lets the task of the connection that goes close its socket.
                    task::yield_now().await;
                } else {
                    time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        bound_unread(&socket);
        if descriptors::check(&socket).is_err() {
            admin.make_room();
        }
        let visitor = admin.welcome().await;
        // A connection that has lost its slot ends as soon as its task is polled.
        let running = Arc::clone(places).acquire_owned().await;
        let running = running.expect("the semaphore is never closed");
        let socket = Transport::from(socket);
        let served = admin::serve(socket, peer, Rc::clone(admin), visitor);
        task::spawn_local(async move {
            served.await;
            drop(running);
        });
        // Lets the new task read the request that may have arrived with the connection.
        task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn the_kernel_takes_little_of_what_is_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let address = listener.local_addr().unwrap();
        let _client = client.connect(address).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let ours = AcceptedSocket::Tcp(ours);

        bound_unread(&ours);

        let AcceptedSocket::Tcp(ours) = ours else {
            unreachable!("it is of TCP");
        };
        ours.writable().await.unwrap();
        let mut taken = 0;
        while let Ok(written) = ours.try_write(&[0; 1024]) {
            taken += written;
        }
        assert!((1..=4 * SEND_BUFFER).contains(&taken), "{taken}");
    }
}
