//! Notifications to a service manager such as systemd, and the sockets inherited from it.
//!
//! Variables of the environment name both: `NOTIFY_SOCKET` and `WATCHDOG_USEC` as in
//! `sd_notify(3)`, `LISTEN_FDS` and its companions as in `sd_listen_fds(3)`. Without them nothing
//! happens. The program starts no child processes that could inherit them.
//!
//! The crate `sd-notify` is not used: it sends on a blocking socket, so that a manager that does not
//! read would block the process, and it cannot reach an abstract address.

use std::{
    convert::Infallible,
    env, future, io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use listenfd::ListenFd;
use rustix::time::{ClockId, clock_gettime};
use socket2::Socket;
use tokio::time::{self, MissedTickBehavior};

use crate::state::worker_handle::WorkerHandle;

/// The service manager that started the process, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Service(Option<Arc<Manager>>);

#[derive(Debug)]
struct Manager {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Interval within which the manager expects a keep-alive.
    watchdog: Option<Duration>,
    /// Set once the manager knows of the drain: a later reload must not report the service ready
    /// again.
    is_stopping: AtomicBool,
}

impl Service {
    /// Reads the manager's address from the environment.
    ///
    /// # Errors
    ///
    /// The address is malformed, or no socket can be created.
    pub fn of_environment() -> io::Result<Self> {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&name)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not block the process.
        socket.set_nonblocking(true)?;
        Ok(Self(Some(Arc::new(Manager {
            socket,
            address,
            watchdog: watchdog(),
            is_stopping: AtomicBool::new(false),
        }))))
    }

    /// Reports that clients are served; `status` is shown to people.
    pub fn ready(&self, status: &str) {
        self.tell_while_serving(&format!("READY=1\nSTATUS={status}"));
    }

    /// Reports that a reload has begun; [`ready`](Self::ready) reports its end.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell_while_serving(&format!(
            "RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration"
        ));
    }

    /// Reports that the drain has begun.
    pub fn stopping(&self) {
        if let Some(manager) = &self.0 {
            manager.is_stopping.store(true, Ordering::Relaxed);
        }
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// Sends keep-alives as long as no worker is stuck.
    ///
    /// # Cancel safety
    ///
    /// Cancelling may only omit a keep-alive.
    pub async fn watch(&self, workers: &[WorkerHandle]) -> Infallible {
        let watchdog = self.0.as_ref().and_then(|manager| manager.watchdog);
        let Some(watchdog) = watchdog else {
            return future::pending().await;
        };
        let mut ticks = time::interval(watchdog / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A worker that does not respond in time is busy, which alone does not make it stuck.
            let _silent = join_all(workers.iter().map(|worker| worker.ask(|_| ()))).await;
            if workers.iter().any(WorkerHandle::is_stuck) {
                tracing::error!("a worker is stuck: the service manager gets no keep-alive");
            } else {
                self.tell("WATCHDOG=1");
            }
        }
    }

    fn tell_while_serving(&self, text: &str) {
        let is_stopping = |manager: &Arc<Manager>| manager.is_stopping.load(Ordering::Relaxed);
        if !self.0.as_ref().is_some_and(is_stopping) {
            self.tell(text);
        }
    }

    fn tell(&self, text: &str) {
        let Some(manager) = &self.0 else { return };
        let told = manager
            .socket
            .send_to_addr(text.as_bytes(), &manager.address);
        if let Err(error) = told {
            tracing::warn!(%error, "cannot notify the service manager");
        }
    }
}

/// Returns the interval of keep-alives, if they are demanded of this process.
fn watchdog() -> Option<Duration> {
    let variable = |name| env::var(name).ok();
    // The variables may be inherited from a parent that is watched itself.
    let is_ours = variable("WATCHDOG_PID").is_none_or(|id| id == process::id().to_string());
    let micros = variable("WATCHDOG_USEC")
        .filter(|_| is_ours)?
        .parse()
        .ok()?;
    Some(Duration::from_micros(micros)).filter(|watchdog| !watchdog.is_zero())
}

/// Inherited listening sockets, by the names that they were given.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Socket with the name `admin`.
    pub(super) admin: Option<Socket>,
    /// All other sockets, in order.
    pub(super) traffic: Vec<Socket>,
}

/// Reason that an inherited socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// Another kind of socket, or no socket.
    #[error("descriptor {0} of LISTEN_FDS is not a TCP or Unix stream socket")]
    Unfit(usize),
    /// A socket that does not listen.
    #[error("descriptor {0} of LISTEN_FDS does not listen: a unit needs Accept=no")]
    Deaf(usize),
}

impl Inherited {
    /// Takes the sockets that the environment names for this process; further calls return none.
    ///
    /// They are not inherited by children. Must be called before a second thread is started,
    /// because it removes the variables.
    ///
    /// # Errors
    ///
    /// The first socket that cannot be used.
    pub fn of_environment() -> Result<Self, InheritError> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut given = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..given.len() {
            // Numbered as `sd_listen_fds(3)` does, from 3.
            let descriptor = index + 3;
            let tcp = given.take_tcp_listener(index).ok().flatten();
            let socket = match tcp {
                Some(listener) => Some(Socket::from(listener)),
                None => given
                    .take_unix_listener(index)
                    .ok()
                    .flatten()
                    .map(Socket::from),
            };
            let socket = socket.ok_or(InheritError::Unfit(descriptor))?;
            if !socket.is_listener().unwrap_or(false) || socket.set_nonblocking(true).is_err() {
                return Err(InheritError::Deaf(descriptor));
            }
            match names.next() {
                Some("admin") if inherited.admin.is_none() => inherited.admin = Some(socket),
                _ => inherited.traffic.push(socket),
            }
        }
        Ok(inherited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config_file::Config,
        state::{process::ProcessState, worker::WorkerState, worker_handle::STUCK_AFTER},
    };

    /// Returns all notifications since the last call.
    fn told(manager: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 64];
        let next = || {
            let length = manager.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        std::iter::from_fn(next).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn all_is_well_while_workers_are_busy_and_not_once_one_is_stuck() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let service = Service(Some(Arc::new(Manager {
            socket: UnixDatagram::unbound().unwrap(),
            address: SocketAddr::from_pathname(&path).unwrap(),
            watchdog: Some(Duration::from_secs(4)),
            is_stopping: AtomicBool::new(false),
        })));
        let route = "[[route]]\nupstream = \"http://127.0.0.1:1\"";
        let config = Config::parse("test", route, &|_| None).unwrap();
        let local = WorkerState::new(Arc::new(ProcessState::new(Arc::new(config))));
        let (well, mut working) = WorkerHandle::new(0);
        let (worker, mut inbox) = WorkerHandle::new(1);
        let workers = [well, worker];
        let mut watch = async |time| {
            let work = async {
                while let Some(visit) = working.recv().await {
                    visit.pay(&local);
                }
                future::pending::<()>().await;
            };
            tokio::select! {
                never = service.watch(&workers) => match never {},
                () = work => {}
                () = time::sleep(time) => {}
            }
            told(&manager)
        };

        // Twice in each of its intervals.
        assert_eq!(watch(STUCK_AFTER).await, ["WATCHDOG=1"; 5]);
        assert!(watch(STUCK_AFTER).await.is_empty());

        while let Ok(visit) = inbox.try_recv() {
            visit.pay(&local);
        }
        assert!(!watch(STUCK_AFTER / 2).await.is_empty());
    }
}
