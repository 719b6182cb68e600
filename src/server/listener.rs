//! Binding of all addresses or none, with errors that say what to do.

use std::{
    fs, io,
    net::{self, SocketAddr},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{self, fs::FileTypeExt},
    },
    path::Path,
    ptr,
    sync::{Arc, Weak},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::systemd::Inherited;
use crate::{
    client_addr::ClientAddr,
    config::{DEFAULT_ADMIN, ListenAddress, ListenSettings},
    config_file::Config,
    transport::Transport,
};

/// Length of the kernel's queue of connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// A bound socket that accepts client connections.
#[derive(Debug)]
pub struct Listener {
    /// Address in the configuration, by which a reload finds the listener.
    configured: ListenAddress,
    settings: ListenSettings,
    socket: BoundSocket,
}

#[derive(Debug)]
enum BoundSocket {
    Tcp(net::TcpListener),
    Unix(unix::net::UnixListener),
}

/// Bound sockets of the process.
#[derive(Debug)]
pub struct Listeners {
    /// Listeners of client connections.
    pub traffic: Vec<Listener>,
    /// Listener of admin requests.
    pub admin: Option<Listener>,
}

impl Listeners {
    /// Binds all addresses of `config`.
    ///
    /// The default address of the admin listener may be in use, say by another readygate on the
    /// machine: then a warning is logged, and there is no admin listener.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound; none is bound then.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        Self::bind_beside(config, Inherited::default())
    }

    /// Binds like [`bind`](Self::bind), with `inherited` sockets in place of addresses, in order:
    /// those of `listen`, and that of `admin`.
    ///
    /// # Errors
    ///
    /// The first address that cannot be bound, or an inherited socket for which there is no
    /// address.
    pub fn bind_beside(config: &Config, inherited: Inherited) -> Result<Self, BindError> {
        let admin = match (inherited.admin, &config.admin) {
            (Some(socket), Some(address)) => {
                Some(Listener::inherit(address.clone().into(), socket))
            }
            (Some(_), None) => {
                return Err(BindError::Superfluous(
                    "the configuration has no admin listener",
                ));
            }
            (None, address) => address.as_ref().map(bind_admin).transpose()?.flatten(),
        };
        if inherited.traffic.len() > config.listen.len() {
            return Err(BindError::Superfluous(
                "the configuration has fewer addresses",
            ));
        }
        let mut given = inherited.traffic.into_iter();
        let traffic = config.listen.iter().map(|settings| match given.next() {
            Some(socket) => Ok(Listener::inherit(settings.clone(), socket)),
            None => bind_one(settings),
        });
        Ok(Self {
            traffic: traffic.collect::<Result<_, _>>()?,
            admin,
        })
    }
}

fn bind_admin(address: &ListenAddress) -> Result<Option<Listener>, BindError> {
    match Listener::bind(address.clone().into()) {
        Ok(listener) => Ok(Some(listener)),
        // Only for the default: an address that somebody chose has to work.
        Err(error)
            if error.kind() == io::ErrorKind::AddrInUse
                && *address == ListenAddress::Tcp(DEFAULT_ADMIN) =>
        {
            tracing::warn!(%address, "in use: there is no admin listener; name another address");
            Ok(None)
        }
        Err(source) => Err(BindError::Address {
            address: address.clone(),
            purpose: " for admin requests",
            source,
        }),
    }
}

impl From<Vec<Listener>> for Listeners {
    /// Converts listeners into a process without an admin listener.
    fn from(traffic: Vec<Listener>) -> Self {
        Self {
            traffic,
            admin: None,
        }
    }
}

/// Binds the addresses of all `listeners`.
///
/// A Unix socket that a killed process left behind is replaced.
///
/// # Errors
///
/// The first address that cannot be bound; none is bound then.
pub fn bind(listeners: &[ListenSettings]) -> Result<Vec<Listener>, BindError> {
    listeners.iter().map(bind_one).collect()
}

fn bind_one(settings: &ListenSettings) -> Result<Listener, BindError> {
    Listener::bind(settings.clone()).map_err(|source| BindError::Address {
        address: settings.address.clone(),
        purpose: "",
        source,
    })
}

impl Listener {
    /// Returns the address, with the real port in place of 0.
    #[must_use]
    pub fn address(&self) -> &ListenAddress {
        &self.settings.address
    }

    /// Returns the settings, with the real port in place of 0.
    #[must_use]
    pub const fn settings(&self) -> &ListenSettings {
        &self.settings
    }

    /// Adopts a socket that listens already, whatever its address.
    fn inherit(mut settings: ListenSettings, socket: Socket) -> Self {
        let configured = settings.address.clone();
        let local = socket.local_addr().ok();
        let socket = if let Some(address) = local.as_ref().and_then(SockAddr::as_socket) {
            settings.address = ListenAddress::Tcp(address);
            BoundSocket::Tcp(socket.into())
        } else {
            let path = local.as_ref().and_then(SockAddr::as_pathname);
            settings.address = ListenAddress::Unix(path.unwrap_or(Path::new("")).to_owned());
            BoundSocket::Unix(socket.into())
        };
        Self {
            configured,
            settings,
            socket,
        }
    }

    fn bind(mut settings: ListenSettings) -> io::Result<Self> {
        let configured = settings.address.clone();
        let socket = match &mut settings.address {
            ListenAddress::Tcp(address) => {
                let listener = bind_tcp(*address)?;
                *address = listener.local_addr()?;
                BoundSocket::Tcp(listener)
            }
            ListenAddress::Unix(path) => BoundSocket::Unix(bind_unix(path)?),
        };
        Ok(Self {
            configured,
            settings,
            socket,
        })
    }

    /// Registers the socket with the runtime of this thread.
    pub(super) fn register(self) -> io::Result<OpenListener> {
        let socket = match self.socket {
            BoundSocket::Tcp(listener) => TcpListener::from_std(listener).map(OpenSocket::Tcp),
            BoundSocket::Unix(listener) => UnixListener::from_std(listener).map(OpenSocket::Unix),
        };
        Ok(OpenListener {
            configured: self.configured,
            settings: Arc::new(self.settings),
            seen: Weak::new(),
            socket: socket?,
        })
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restarted process can bind while connections of its predecessor are in `TIME_WAIT`.
    socket.set_reuse_address(true)?;
    // Linux's default depends on a sysctl; `[::]` is documented to accept IPv4 as well.
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // tokio requires it of sockets that it did not create.
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<unix::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // `bind` refuses an existing file even if its process is gone. It is removed only when it
    // refuses connections, so that neither a running program nor another file is lost.
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Returns whether `path` is a socket on which no process listens.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    is_socket
        && unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// A listener that is registered with a runtime.
#[derive(Debug)]
pub(super) struct OpenListener {
    /// Address in the configuration, by which a reload finds the listener.
    configured: ListenAddress,
    settings: Arc<ListenSettings>,
    /// Configuration in which the settings were last looked up.
    seen: Weak<Config>,
    socket: OpenSocket,
}

#[derive(Debug)]
enum OpenSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl OpenListener {
    /// Returns the settings of connections accepted so far.
    pub(super) fn settings(&self) -> &Arc<ListenSettings> {
        &self.settings
    }

    /// Returns the settings for a connection accepted with this configuration, which has the same
    /// addresses as the one before.
    pub(super) fn settings_in(&mut self, config: &Arc<Config>) -> Arc<ListenSettings> {
        // A comparison of pointers for each connection; the lookup happens once after each reload.
        if !ptr::eq(self.seen.as_ptr(), Arc::as_ptr(config)) {
            self.seen = Arc::downgrade(config);
            let mut listeners = config.listen.iter();
            if let Some(settings) = listeners.find(|it| it.address == self.configured) {
                self.settings = Arc::new(ListenSettings {
                    address: self.settings.address.clone(),
                    ..settings.clone()
                });
            }
        }
        Arc::clone(&self.settings)
    }

    /// Accepts the next connection.
    ///
    /// # Cancel safety
    ///
    /// Cancelling loses no connection.
    pub(super) async fn accept(&self) -> io::Result<(AcceptedSocket, ClientAddr)> {
        match &self.socket {
            OpenSocket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // It fails for a client that is gone already, which its first read will tell.
                let _ = stream.set_nodelay(true);
                Ok((AcceptedSocket::Tcp(stream), ClientAddr::from(address)))
            }
            OpenSocket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((AcceptedSocket::Unix(stream), ClientAddr::Unix))
            }
        }
    }
}

/// The socket of an accepted connection.
#[derive(Debug)]
pub(super) enum AcceptedSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AcceptedSocket {
    /// Returns the address that the client connected to; `None` on a Unix socket.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        let Self::Tcp(stream) = self else {
            return None;
        };
        let address = stream.local_addr().ok()?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Deregisters the socket from this thread's runtime.
    pub(super) fn unregister(self) -> io::Result<UnregisteredSocket> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(UnregisteredSocket::Tcp),
            Self::Unix(stream) => stream.into_std().map(UnregisteredSocket::Unix),
        }
    }
}

impl AsFd for AcceptedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl From<AcceptedSocket> for Transport {
    fn from(socket: AcceptedSocket) -> Self {
        match socket {
            AcceptedSocket::Tcp(stream) => Self::Tcp(stream),
            AcceptedSocket::Unix(stream) => Self::Unix(stream),
        }
    }
}

/// An accepted socket on its way from one runtime to another.
#[derive(Debug)]
pub(super) enum UnregisteredSocket {
    Tcp(net::TcpStream),
    Unix(unix::net::UnixStream),
}

impl UnregisteredSocket {
    /// Registers the socket with this thread's runtime.
    pub(super) fn register(self) -> io::Result<AcceptedSocket> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(AcceptedSocket::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(AcceptedSocket::Unix),
        }
    }
}

/// Reason that a process cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refused an address.
    #[error("cannot listen{purpose} on {address}: {}", advice(address, source))]
    Address {
        /// The refused address.
        address: ListenAddress,
        /// Its purpose in the message, with a leading blank.
        purpose: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The service manager passed a socket that no configured listener takes.
    #[error("a socket was inherited that is of no use: {0}")]
    Superfluous(&'static str),
}

fn advice(address: &ListenAddress, error: &io::Error) -> &'static str {
    /// First port that needs no privilege by default.
    const UNPRIVILEGED: u16 = 1024;
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "it is in use; stop the program that listens there, or choose another address"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; 0.0.0.0 is every address it has"
        }
        io::ErrorKind::PermissionDenied => match address {
            ListenAddress::Tcp(address) if address.port() < UNPRIVILEGED => {
                "permission denied; give the program the capability CAP_NET_BIND_SERVICE, or \
                 choose a port from 1024 on"
            }
            ListenAddress::Tcp(_) => "permission denied; the system lets this user listen nowhere",
            ListenAddress::Unix(_) => {
                "permission denied; choose a directory that this user can write to"
            }
        },
        io::ErrorKind::NotFound => "its directory does not exist; create it",
        io::ErrorKind::InvalidInput => "the path is too long for a socket; choose a shorter one",
        _ => "the system refuses it",
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn loopback() -> ListenSettings {
        ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()).into()
    }

    /// Returns a path in the temporary directory, unique to this process and test.
    fn socket_path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("readygate-{}-{name}.sock", std::process::id()))
    }

    /// Returns the system's error of a refused address.
    fn kind(error: &BindError) -> io::ErrorKind {
        match error {
            BindError::Address { source, .. } => source.kind(),
            BindError::Superfluous(_) => panic!("an address is wrong: {error}"),
        }
    }

    #[test]
    fn port_zero_becomes_the_real_port() {
        let listeners = bind(&[loopback()]).unwrap();

        let ListenAddress::Tcp(address) = listeners[0].address() else {
            panic!("a TCP address stays one");
        };
        assert_ne!(address.port(), 0);
        assert_eq!(
            listeners[0].address().to_string(),
            format!("http://127.0.0.1:{}", address.port())
        );
    }

    #[test]
    fn an_address_in_use_is_named_with_what_to_do() {
        let first = bind(&[loopback()]).unwrap();
        let taken = first[0].address().clone();

        let error = bind(&[loopback(), taken.clone().into()]).unwrap_err();

        let BindError::Address { address, .. } = &error else {
            panic!("an address is wrong: {error}");
        };
        assert_eq!(*address, taken);
        assert!(error.to_string().starts_with(&format!(
            "cannot listen on {taken}: it is in use; stop the program"
        )));
    }

    #[test]
    fn a_port_that_needs_a_privilege_is_refused_with_its_name() {
        let refused = |address| BindError::Address {
            address,
            purpose: "",
            source: io::ErrorKind::PermissionDenied.into(),
        };
        let of_port =
            |port: u16| refused(ListenAddress::Tcp(([0, 0, 0, 0], port).into())).to_string();

        assert_eq!(
            of_port(80),
            "cannot listen on http://0.0.0.0:80: permission denied; give the program the \
             capability CAP_NET_BIND_SERVICE, or choose a port from 1024 on"
        );
        assert!(!of_port(8080).contains("1024"), "{}", of_port(8080));
        let path = refused(ListenAddress::Unix("/a.sock".into())).to_string();
        assert!(
            path.contains("write to") && !path.contains("port"),
            "{path}"
        );
    }

    #[test]
    fn a_unix_socket_that_nobody_listens_on_is_replaced() {
        let path = socket_path("stale");
        let address = ListenSettings::from(ListenAddress::Unix(path.clone()));
        drop(bind(std::slice::from_ref(&address)).unwrap());
        assert!(path.exists());

        let listening = bind(std::slice::from_ref(&address)).unwrap();

        let error = bind(&[address]).unwrap_err();
        assert_eq!(kind(&error), io::ErrorKind::AddrInUse);
        drop(listening);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let path = socket_path("file");
        fs::write(&path, "precious").unwrap();

        let error = bind(&[ListenAddress::Unix(path.clone()).into()]).unwrap_err();

        assert_eq!(kind(&error), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(path).unwrap();
    }
}
