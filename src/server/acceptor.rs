//! Acceptance of connections and their distribution to the workers.
//!
//! Connections are distributed by load, not by `SO_REUSEPORT`: the kernel's hash does not know the
//! load, and sessions last for hours, so that an uneven distribution would stay.

use std::{io, mem, rc::Rc, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::OptionFuture};
use tokio::{sync::mpsc, task, time};

use super::{
    Listener,
    listener::{AcceptedSocket, OpenListener, UnregisteredSocket},
    proxy_protocol::{self, Behind},
    timer_anchor::TimerAnchor,
    tls,
};
use crate::{
    client_addr::{ClientAddr, Endpoints},
    config::ListenSettings,
    downstream::{self, HttpVersions},
    limits::{
        connections::{Admission, ConnectionSlot, WorkerConnections},
        open_connections::Connections,
        per_ip::AddressPlace,
    },
    local_reply::{LocalReply, rejections::Dropped},
    route::Route,
    state::worker::WorkerState,
    tls::ServerTls,
    transport::{Transport, descriptors},
};

/// Pause after an `accept` that failed for want of a resource, say file descriptors: the listener
/// stays readable, and an immediate retry would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Sender of connections to one worker, with their count.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) count: Arc<WorkerConnections>,
    pub(super) handed: mpsc::Sender<Handed>,
}

/// Accept loop, run by the first worker.
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    /// One per worker, the acceptor's own first.
    seats: Vec<Seat>,
}

impl Acceptor {
    pub(super) fn new(listeners: Vec<Listener>, seats: Vec<Seat>) -> Self {
        Self { listeners, seats }
    }

    /// Starts accepting on this thread; the listeners close when the drain begins.
    pub(super) fn start(self, local: &Rc<WorkerState>, pacer: &TimerAnchor) -> io::Result<()> {
        let handout = Rc::new(Handout {
            seats: self.seats,
            process: Arc::clone(local.connections()),
            local: Rc::clone(local),
            pacer: pacer.clone(),
        });
        for listener in self.listeners {
            let listener = listener.register()?;
            let accept = accept_all(listener, Rc::clone(&handout));
            let drain = local.drain().clone();
            task::spawn_local(async move { drain.run_until_begun(accept).await });
        }
        Ok(())
    }
}

async fn accept_all(listener: OpenListener, handout: Rc<Handout>) {
    let mut is_failing = false;
    let mut listener = listener;
    loop {
        match listener.accept().await {
            Ok((socket, client)) => {
                until_there_is_room(&socket, &listener, &mut is_failing).await;
                let settings = listener.settings_in(&handout.local.config());
                handout.hand_out(socket, client, settings).await;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                warn(&listener, &error, &mut is_failing);
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Makes an accepted connection wait, as if it were still in the backlog, while it would use one of
/// the last file descriptors.
async fn until_there_is_room(
    socket: &AcceptedSocket,
    listener: &OpenListener,
    is_failing: &mut bool,
) {
    let Err(error) = descriptors::check(socket) else {
        if mem::take(is_failing) {
            tracing::info!(address = %listener.settings(), "accepting connections again");
        }
        return;
    };
    warn(listener, &error, is_failing);
    // No event tells that a descriptor was closed, hence the polling.
    while !descriptors::are_left(socket) {
        time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Logs the first of a series of failures.
fn warn(listener: &OpenListener, error: &io::Error, is_failing: &mut bool) {
    if !mem::replace(is_failing, true) {
        let address = listener.settings();
        tracing::warn!(%address, %error, "cannot accept connections");
    }
}

/// Returns whether the error concerns only the connection that was to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

struct Handout {
    seats: Vec<Seat>,
    process: Arc<Connections>,
    local: Rc<WorkerState>,
    pacer: TimerAnchor,
}

impl Handout {
    /// Passes a connection to the worker with the fewest.
    async fn hand_out(
        &self,
        socket: AcceptedSocket,
        client: ClientAddr,
        listener: Arc<ListenSettings>,
    ) {
        let seats = self.seats.iter().enumerate();
        let Some((index, seat)) = seats.min_by_key(|(_, seat)| seat.count.get()) else {
            return;
        };
        let max_connections = self.local.config().limits.max_connections;
        let taken = ConnectionSlot::take(&self.process, max_connections, &seat.count);
        let Some((place, admission)) = taken else {
            // Dropped without a response: so many are over the limit that even a `503` each would
            // cost too much.
            self.local.rejections().count(LocalReply::Connections);
            return;
        };
        let connection = AcceptedConnection {
            socket,
            client,
            listener,
            admission,
            place,
        };
        // The socket is registered with this thread's reactor already, so a hand-over to itself
        // would only cost system calls.
        if index == 0 {
            connection.spawn(&self.local, &self.pacer);
            return;
        }
        match connection.unregister() {
            // The receiver is gone only when its worker failed, and then the whole process drains.
            Ok(handed) => drop(seat.handed.send(handed).await),
            Err(error) => tracing::warn!(%error, "cannot hand over a connection"),
        }
    }
}

/// A connection on the worker that serves it or is about to pass it on.
pub(super) struct AcceptedConnection {
    socket: AcceptedSocket,
    client: ClientAddr,
    listener: Arc<ListenSettings>,
    admission: Admission,
    place: ConnectionSlot,
}

impl AcceptedConnection {
    /// Serves the connection in tasks of its own on this thread.
    pub(super) fn spawn(self, local: &Rc<WorkerState>, pacer: &TimerAnchor) {
        pacer.start();
        tracing::trace!(client = %self.client, listener = %self.listener.address, "accepted");
        if self.listener.proxy_protocol {
            let local = Rc::clone(local);
            task::spawn_local(async move {
                if let Some((connection, ends)) = self.read_proxy_header(&local).await {
                    connection.serve(ends, &local);
                }
            });
        } else {
            let ends = self.ends(local);
            self.serve(ends, local);
        }
    }

    /// Consumes the PROXY protocol header and returns the addresses in it; `None` when the
    /// connection is closed instead.
    async fn read_proxy_header(self, local: &WorkerState) -> Option<(Self, Endpoints)> {
        let config = local.config();
        let client = self.client;
        if !config.trusted_proxies.trusts(client) {
            local.rejections().count_dropped(Dropped::ProxyHeader);
            tracing::debug!(%client, "closed: PROXY headers are accepted from trusted proxies only");
            return None;
        }
        let read = proxy_protocol::read(&self.socket);
        let read = time::timeout(config.limits.header_timeout, read);
        match local.drain().run_until_begun(read).await? {
            Ok(Ok(behind)) => {
                let ends = match behind {
                    Behind::Client(ends) => ends,
                    Behind::Proxy => self.ends(local),
                    Behind::Somebody => Endpoints {
                        is_known: false,
                        ..self.ends(local)
                    },
                };
                Some((self, ends))
            }
            Ok(Err(error)) => {
                local.rejections().count_dropped(Dropped::ProxyHeader);
                tracing::debug!(%client, %error, "closed: no PROXY header");
                None
            }
            Err(_elapsed) => {
                local.rejections().count_dropped(Dropped::ProxyHeader);
                tracing::debug!(%client, "closed: no PROXY header in time");
                None
            }
        }
    }

    /// Returns the addresses of the connection itself.
    fn ends(&self, local: &WorkerState) -> Endpoints {
        let is_told = |route: &Arc<Route>| route.upstream.proxy_protocol.is_some();
        // `getsockname` is a system call, and only a PROXY header to an upstream needs its result.
        let is_needed = local.config().routes.iter().any(is_told);
        Endpoints {
            client: self.client,
            server: is_needed.then(|| self.socket.local_address()).flatten(),
            is_known: true,
        }
    }

    /// Acquires a slot of the client's address, which trusted proxies do not need; `None` closes
    /// the connection.
    fn enter_address(
        &self,
        client: ClientAddr,
        local: &WorkerState,
    ) -> Option<(Option<AddressPlace>, Admission)> {
        if local.config().trusted_proxies.trusts(client) {
            return Some((None, self.admission));
        }
        let Some((place, is_within)) = local.addresses().enter(client) else {
            local.rejections().count(LocalReply::AddressConnections);
            return None;
        };
        let admission = if is_within {
            self.admission
        } else {
            Admission::OverAddressLimit
        };
        Some((Some(place), admission))
    }

    /// Serves the connection in a task of its own on this thread.
    fn serve(self, ends: Endpoints, local: &Rc<WorkerState>) {
        let Some((address, admission)) = self.enter_address(ends.client, local) else {
            return;
        };
        let Self { place, .. } = self;
        let place = (place, address);
        let socket = Transport::from(self.socket);
        // Combinators rather than `async` blocks, which would reserve the space of each awaited
        // future twice: with HTTP/2 and idle keep-alive connections a task lives long.
        let Some(tls) = self.listener.tls.clone() else {
            let protocol = if self.listener.h2c {
                HttpVersions::Either
            } else {
                HttpVersions::Http1
            };
            let served = downstream::serve(socket, protocol, ends, admission, local);
            spawn(served, place);
            return;
        };
        let local = Rc::clone(local);
        // Boxed, so that the larger handshake does not add to the task's size for its whole life.
        let handshake = Box::pin(shake_hands(tls, socket, ends.client, Rc::clone(&local)));
        let served = handshake.then(move |stream| {
            let serve = |stream: Transport| {
                let protocol = match stream.application_protocol() {
                    Some(b"h2") => HttpVersions::Http2,
                    _ => HttpVersions::Http1,
                };
                downstream::serve(stream, protocol, ends, admission, &local)
            };
            OptionFuture::from(stream.map(serve))
        });
        spawn(served.map(Option::flatten), place);
    }

    fn unregister(self) -> io::Result<Handed> {
        Ok(Handed {
            socket: self.socket.unregister()?,
            client: self.client,
            listener: self.listener,
            admission: self.admission,
            place: self.place,
        })
    }
}

/// Spawns the task of a connection, and another one for the session that it may become; `place` is
/// released when the last of them has ended.
fn spawn<S>(served: impl Future<Output = Option<S>> + 'static, place: impl Sized + 'static)
where
    S: Future<Output = ()> + 'static,
{
    task::spawn_local(served.map(move |session| {
        if let Some(session) = session {
            task::spawn_local(session.map(move |()| drop(place)));
        }
    }));
}

/// Performs the TLS handshake; `None` when the client fails or the drain begins.
async fn shake_hands(
    tls: Arc<ServerTls>,
    socket: Transport,
    client: ClientAddr,
    local: Rc<WorkerState>,
) -> Option<Transport> {
    let handshake = tls::accept(&tls, socket, local.config().limits.header_timeout);
    let stream = local.drain().run_until_begun(handshake).await?;
    stream
        .inspect_err(|error| {
            local.rejections().count_dropped(Dropped::TlsHandshake);
            tracing::debug!(%client, %error, "TLS handshake failed");
        })
        .ok()
}

/// A connection on its way to another worker, registered with no runtime.
pub(super) struct Handed {
    socket: UnregisteredSocket,
    client: ClientAddr,
    listener: Arc<ListenSettings>,
    admission: Admission,
    place: ConnectionSlot,
}

impl Handed {
    /// Registers the socket with this thread's runtime.
    pub(super) fn register(self) -> io::Result<AcceptedConnection> {
        Ok(AcceptedConnection {
            socket: self.socket.register()?,
            client: self.client,
            listener: self.listener,
            admission: self.admission,
            place: self.place,
        })
    }
}
