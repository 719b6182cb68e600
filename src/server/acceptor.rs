//! Accepting, and handing each connection to a worker.
//!
//! Connections are handed out by load and not by `SO_REUSEPORT`, whose hash does not know
//! it: sessions last for hours, so a bad hand would stay.

use std::{io, mem, rc::Rc, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::OptionFuture};
use tokio::{task, time};

use super::{
    ListenSettings, Listener, Tls,
    listener::{AcceptedSocket, OpenListener, UnregisteredSocket},
    pacer::Pacer,
    places::Place,
    proxy_protocol::{self, Behind},
    worker::Seat,
};
use crate::{
    client::{ClientAddr, Endpoints},
    http::{self, Admission, Local, Protocol, addresses::AddressPlace},
    route::Route,
    telemetry::{connections::Connections, rejections::Rejection},
    transport::{Transport, descriptors},
};

/// How long accepting pauses when the process lacks something, say file descriptors: the
/// listener stays ready, so that trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The part of the first worker that accepts.
pub(super) struct Acceptor {
    listeners: Vec<Listener>,
    /// Of all workers; the first one is the acceptor's own.
    seats: Vec<Seat>,
}

impl Acceptor {
    pub(super) fn new(listeners: Vec<Listener>, seats: Vec<Seat>) -> Self {
        Self { listeners, seats }
    }

    /// Starts accepting on this thread, until the drain begins: then the listeners close.
    pub(super) fn start(self, local: &Rc<Local>, pacer: &Pacer) -> io::Result<()> {
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

/// Keeps a connection waiting, like those that are not accepted yet, while it would have one of
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
    while !descriptors::are_left(socket) {
        time::sleep(ACCEPT_PAUSE).await;
    }
}

/// Says once that the process lacks something.
fn warn(listener: &OpenListener, error: &io::Error, is_failing: &mut bool) {
    if !mem::replace(is_failing, true) {
        let address = listener.settings();
        tracing::warn!(%address, %error, "cannot accept connections");
    }
}

/// Whether only the connection that would have been accepted is affected.
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
    local: Rc<Local>,
    pacer: Pacer,
}

impl Handout {
    /// Gives a connection to the worker with the fewest.
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
        let taken = Place::take(&self.process, max_connections, &seat.count);
        let Some((place, admission)) = taken else {
            self.local.rejections().count(Rejection::Connections);
            return;
        };
        let connection = Connection {
            socket,
            client,
            listener,
            admission,
            place,
        };
        if index == 0 {
            connection.spawn(&self.local, &self.pacer);
            return;
        }
        match connection.unregister() {
            // A worker that has ended takes the process down with it.
            Ok(handed) => drop(seat.handed.send(handed).await),
            Err(error) => tracing::warn!(%error, "cannot hand over a connection"),
        }
    }
}

/// A connection on the worker that serves it, or is about to hand it on.
pub(super) struct Connection {
    socket: AcceptedSocket,
    client: ClientAddr,
    listener: Arc<ListenSettings>,
    admission: Admission,
    place: Place,
}

impl Connection {
    /// Serves it in tasks of its own on this thread.
    pub(super) fn spawn(self, local: &Rc<Local>, pacer: &Pacer) {
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

    /// Takes the header of the PROXY protocol off the connection, and returns what it says;
    /// `None` when the connection is closed.
    async fn read_proxy_header(self, local: &Local) -> Option<(Self, Endpoints)> {
        let config = local.config();
        let client = self.client;
        if !config.trusted_proxies.trusts(client) {
            local.rejections().count(Rejection::ProxyHeader);
            tracing::debug!(%client, "closed: only trusted proxies may say who is behind them");
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
                local.rejections().count(Rejection::ProxyHeader);
                tracing::debug!(%client, %error, "closed: no PROXY header");
                None
            }
            Err(_elapsed) => {
                local.rejections().count(Rejection::ProxyHeader);
                tracing::debug!(%client, "closed: no PROXY header in time");
                None
            }
        }
    }

    /// The ends of the connection itself.
    fn ends(&self, local: &Local) -> Endpoints {
        let is_told = |route: &Arc<Route>| route.upstream.proxy_protocol.is_some();
        // Asking the system costs a call, which most configurations have no use for.
        let is_needed = local.config().routes.iter().any(is_told);
        Endpoints {
            client: self.client,
            server: is_needed.then(|| self.socket.local_address()).flatten(),
            is_known: true,
        }
    }

    /// A place for its address, unless that is a trusted proxy's; `None`: it is closed.
    fn enter_address(
        &self,
        client: ClientAddr,
        local: &Local,
    ) -> Option<(Option<AddressPlace>, Admission)> {
        if local.config().trusted_proxies.trusts(client) {
            return Some((None, self.admission));
        }
        let Some((place, is_within)) = local.addresses().enter(client) else {
            local.rejections().count(Rejection::AddressConnections);
            return None;
        };
        let admission = if is_within {
            self.admission
        } else {
            Admission::OverAddressLimit
        };
        Some((Some(place), admission))
    }

    /// Serves it in a task of its own on this thread.
    fn serve(self, ends: Endpoints, local: &Rc<Local>) {
        let Some((address, admission)) = self.enter_address(ends.client, local) else {
            return;
        };
        let Self { place, .. } = self;
        let place = (place, address);
        let socket = Transport::from(self.socket);
        // Neither is an `async` block, which would have room for what it awaits twice: with
        // HTTP/2, and while a connection is kept, a task lives long.
        let Some(tls) = self.listener.tls.clone() else {
            let protocol = if self.listener.h2c {
                Protocol::Either
            } else {
                Protocol::Http1
            };
            let served = http::serve(socket, protocol, ends, admission, local);
            spawn(served, place);
            return;
        };
        let local = Rc::clone(local);
        let handshake = Box::pin(shake_hands(tls, socket, ends.client, Rc::clone(&local)));
        let served = handshake.then(move |stream| {
            let serve = |stream: Transport| {
                let protocol = match stream.application_protocol() {
                    Some(b"h2") => Protocol::Http2,
                    _ => Protocol::Http1,
                };
                http::serve(stream, protocol, ends, admission, &local)
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

/// Serves a connection in a task of its own on this thread, and the session that it may become in
/// another. The `place` is kept until both have ended.
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

/// The connection over TLS; `None` when the client does not get there.
async fn shake_hands(
    tls: Arc<Tls>,
    socket: Transport,
    client: ClientAddr,
    local: Rc<Local>,
) -> Option<Transport> {
    let handshake = tls.accept(socket, local.config().limits.header_timeout);
    let stream = local.drain().run_until_begun(handshake).await?;
    stream
        .inspect_err(|error| {
            local.rejections().count(Rejection::TlsHandshake);
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
    place: Place,
}

impl Handed {
    /// Registers it with the runtime of this thread.
    pub(super) fn register(self) -> io::Result<Connection> {
        Ok(Connection {
            socket: self.socket.register()?,
            client: self.client,
            listener: self.listener,
            admission: self.admission,
            place: self.place,
        })
    }
}
