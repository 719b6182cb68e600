//! An endpoint whose connections are a test's, on a paused clock.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Barrier, atomic::AtomicBool},
    thread,
};

use futures_util::{FutureExt, future::join_all};
use tokio::{task::LocalSet, time::Instant};

use super::*;
use crate::upstream::breaker::BreakerState;

const SECOND: Duration = Duration::from_secs(1);

const BREAKER: BreakerSettings = BreakerSettings {
    failures: 2,
    cooldown: Duration::from_secs(5),
};

fn endpoint() -> Arc<Endpoint> {
    let nowhere = Address::Unix("/nowhere/upstream.sock".into());
    Endpoint::new("/", &Settings::new(nowhere), BREAKER, &Names::default())
}

fn refused() -> io::Error {
    io::ErrorKind::ConnectionRefused.into()
}

/// An address at which somebody listens from some time on, and how often that was tried.
struct Port {
    listens_at: Cell<Instant>,
    attempts: Cell<u32>,
    under_way: Cell<u32>,
    takes: Duration,
}

impl Port {
    fn listening_in(wait: Duration) -> Self {
        Self {
            listens_at: Cell::new(Instant::now() + wait),
            attempts: Cell::default(),
            under_way: Cell::default(),
            takes: Duration::ZERO,
        }
    }

    async fn connect(&self) -> io::Result<Instant> {
        self.attempts.set(self.attempts.get() + 1);
        self.under_way.set(self.under_way.get() + 1);
        let under_way = self.under_way.get();
        time::sleep(self.takes).await;
        self.under_way.set(self.under_way.get() - 1);
        if Instant::now() < self.listens_at.get() {
            assert_eq!(under_way, 1, "attempts at a time while nobody listens");
            return Err(refused());
        }
        Ok(Instant::now())
    }
}

#[tokio::test(start_paused = true)]
async fn thousands_of_waiters_share_one_series_of_attempts() {
    for takes in [Duration::ZERO, Duration::from_millis(900)] {
        let endpoint = endpoint();
        let mut port = Port::listening_in(10 * SECOND);
        port.takes = takes;
        let attempts: Vec<_> = (0..5000).map(|_| Attempts::default()).collect();
        let all = attempts
            .iter()
            .map(|it| endpoint.connect(it, || port.connect()));

        let connected = join_all(all).await;

        // Five shorter waits, and then each is half a second at least.
        let failed = port.attempts.get() - 5000;
        assert!(failed <= 6 + 20, "{failed}");
        let at: Vec<_> = connected.into_iter().map(Result::unwrap).collect();
        let last = at.iter().max().unwrap();
        assert!(*last - port.listens_at.get() <= SECOND + 2 * takes);
        assert!(*last - *at.iter().min().unwrap() <= takes);
        // Each has failed at least once, and no more have than there were.
        for attempts in &attempts {
            assert!((1..=failed).contains(&attempts.failures()[0]));
            assert_eq!(attempts.get(), attempts.failures()[0] + 1);
        }
        let made: u32 = attempts.iter().map(Attempts::get).sum();
        assert_eq!(made, 5000 + failed + 4999);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_trying_hands_over_to_the_next() {
    let endpoint = endpoint();
    let port = Port::listening_in(30 * SECOND);
    let mut all: Vec<_> = (0..10)
        .map(|_| Box::pin(endpoint.connect((), || port.connect())))
        .collect();
    for waiting in &mut all {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    for _ in 0..9 {
        drop(all.remove(0));
        let tried = port.attempts.get();
        let _ = time::timeout(SECOND, all[0].as_mut()).await;
        assert!(port.attempts.get() > tried);
    }

    all.remove(0).await.unwrap();
}

#[test]
fn those_who_wait_on_other_workers_go_as_well() {
    let endpoint = endpoint();
    let listens = Arc::new(AtomicBool::new(false));
    let tried = Arc::new(AtomicUsize::new(0));
    let all_wait = Arc::new(Barrier::new(3));
    let worker = || {
        let (endpoint, listens) = (Arc::clone(&endpoint), Arc::clone(&listens));
        let (tried, all_wait) = (Arc::clone(&tried), Arc::clone(&all_wait));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                let connect = || async {
                    tried.fetch_add(1, Ordering::SeqCst);
                    if listens.load(Ordering::SeqCst) {
                        Ok(())
                    } else {
                        Err(refused())
                    }
                };
                let mut all = Box::pin(join_all((0..50).map(|_| endpoint.connect((), connect))));
                assert!(all.as_mut().now_or_never().is_none());
                all_wait.wait();
                assert!(all.await.iter().all(Result::is_ok));
            });
        })
    };
    let workers = [worker(), worker()];
    all_wait.wait();

    listens.store(true, Ordering::SeqCst);

    for worker in workers {
        worker.join().unwrap();
    }
    assert!(endpoint.schedule.listens());
}

#[tokio::test(start_paused = true)]
async fn a_failure_amid_successes_says_nothing_of_the_port() {
    let endpoint = endpoint();
    endpoint.connect((), || async { Ok(()) }).await.unwrap();
    let slow = endpoint.connect((), || async {
        time::sleep(SECOND).await;
        Err::<(), _>(io::ErrorKind::TimedOut.into())
    });
    let quick = async {
        time::sleep(SECOND / 2).await;
        endpoint.connect((), || async { Ok(()) }).await
    };

    let (slow, quick) = tokio::join!(slow, quick);

    quick.unwrap();
    assert!(matches!(slow, Err(DialError::Unreachable(_))));
    assert!(endpoint.schedule.listens());
    // Nor does one that finds the queue of a Unix socket full.
    let full = || async { Err::<(), _>(io::ErrorKind::WouldBlock.into()) };
    assert!(endpoint.connect((), full).await.is_err());
    assert!(endpoint.schedule.listens());
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_comes_and_goes_is_not_hammered() {
    let endpoint = endpoint();
    let attempts = Cell::new(0);
    // Each second attempt succeeds, and then nobody listens again.
    let connect = || async {
        attempts.set(attempts.get() + 1);
        if attempts.get() % 2 == 0 {
            Ok(())
        } else {
            Err(refused())
        }
    };
    let started = Instant::now();

    while started.elapsed() < 20 * SECOND {
        endpoint.connect((), connect).await.unwrap();
    }

    assert!(attempts.get() <= 100, "{}", attempts.get());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_after_a_pause_tries_at_once_and_soon_again() {
    let endpoint = endpoint();
    let port = Port::listening_in(100 * SECOND);
    let mut first = Box::pin(endpoint.connect((), || port.connect()));
    let _ = time::timeout(10 * SECOND, first.as_mut()).await;
    drop(first);
    time::advance(60 * SECOND).await;
    let tried = port.attempts.get();

    let next = endpoint.connect((), || port.connect());
    let _ = time::timeout(SECOND / 10, next).await;

    assert!(
        port.attempts.get() >= tried + 3,
        "{}",
        port.attempts.get() - tried
    );
}

/// Makes the breaker open while nobody listens.
async fn open(endpoint: &Arc<Endpoint>) {
    for _ in 0..BREAKER.failures {
        let trial = endpoint.admit().unwrap();
        let attempts = Attempts::default();
        let connect = endpoint.connect_for(&attempts).map(drop);
        let _ = time::timeout(3 * SECOND, connect).await;
        trial.fail();
    }
    assert_eq!(endpoint.status().state, BreakerState::Open);
}

/// An endpoint on a socket that is not there yet.
fn on_socket() -> (Arc<Endpoint>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("upstream.sock");
    let settings = Settings::new(Address::Unix(path));
    let endpoint = Endpoint::new("/", &settings, BREAKER, &Names::default());
    (endpoint, folder)
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_closes_a_second_after_the_port_listens() {
    let (endpoint, folder) = on_socket();
    open(&endpoint).await;
    time::sleep(29 * SECOND).await;
    assert!(
        endpoint.admit().is_err(),
        "the cooldown is over, and nobody listens"
    );
    assert!(endpoint.status().probe_in.unwrap() <= SECOND);

    let path = folder.path().join("upstream.sock");
    let _listener = tokio::net::UnixListener::bind(path).unwrap();
    time::sleep(SECOND).await;

    assert_eq!(endpoint.status().state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn the_proxys_own_attempts_stop_a_minute_after_the_last_refusal() {
    let (endpoint, folder) = on_socket();
    open(&endpoint).await;
    for _ in 0..3 {
        time::sleep(50 * SECOND).await;
        assert!(endpoint.admit().is_err());
    }
    assert!(endpoint.probes.is_running());

    time::sleep(61 * SECOND).await;

    assert!(!endpoint.probes.is_running());
    let path = folder.path().join("upstream.sock");
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    time::sleep(10 * SECOND).await;
    assert!(listener.accept().now_or_never().is_none(), "it may sleep");
    // And then a client is let through, who finds out.
    let _trial = endpoint.admit().unwrap();
    assert_eq!(endpoint.status().state, BreakerState::HalfOpen);
    endpoint.connect_for(&Attempts::default()).await.unwrap();
    assert_eq!(endpoint.status().state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn own_attempts_are_a_second_apart_however_long_the_waits() {
    let mut settings = Settings::new(Address::Unix("/nowhere/upstream.sock".into()));
    settings.retry.initial = 30 * SECOND;
    settings.retry.max = 30 * SECOND;
    let endpoint = Endpoint::new("/", &settings, BREAKER, &Names::default());
    let mut port = Port::listening_in(60 * SECOND);
    port.takes = SECOND / 100;
    let _running = endpoint.probes.start().unwrap();

    endpoint.connect((), || port.connect()).await.unwrap();

    let attempts = port.attempts.get();
    assert!((59..=62).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn hammering_clients_stay_out_while_nobody_listens() {
    let (endpoint, folder) = on_socket();
    open(&endpoint).await;
    // Quiet for long enough that nobody tries any more.
    time::sleep(120 * SECOND).await;
    let mut let_through = 0;
    for _ in 0..600 {
        if let Ok(trial) = endpoint.admit() {
            let_through += 1;
            // Its client is not patient either.
            let attempts = Attempts::default();
            let _ = time::timeout(SECOND / 20, endpoint.connect_for(&attempts)).await;
            drop(trial);
        }
        time::sleep(SECOND / 10).await;
    }
    assert!((1..=3).contains(&let_through), "{let_through}");

    let path = folder.path().join("upstream.sock");
    let _listener = tokio::net::UnixListener::bind(path).unwrap();
    time::sleep(SECOND).await;

    assert_eq!(endpoint.status().state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn attempts_that_begin_as_others_stop_are_known_to_be_made() {
    let probes = Probes::default();
    let mut first = probes.start().unwrap();
    time::advance(61 * SECOND).await;
    assert!(first.stop_if_quiet().is_none());
    let second = probes.start().unwrap();

    drop(first);

    assert!(probes.is_running());
    drop(second);
    assert!(!probes.is_running());
}

#[tokio::test(start_paused = true)]
async fn a_connection_closes_only_a_breaker_opened_by_refusals() {
    let endpoint = endpoint();
    endpoint.connect((), || async { Ok(()) }).await.unwrap();
    for _ in 0..BREAKER.failures {
        endpoint.admit().unwrap().fail();
    }
    assert!(endpoint.admit().is_err());

    endpoint.connect((), || async { Ok(()) }).await.unwrap();

    assert_eq!(endpoint.status().state, BreakerState::Open);
    assert!(!endpoint.probes.is_running());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_nobody_is_not_kept_by_those_who_do() {
    let local = LocalSet::new();
    let endpoint = endpoint();
    let port = Rc::new(Port::listening_in(5 * SECOND));
    local
        .run_until(async {
            let waiting = endpoint.connect((), || port.connect());
            let at_once = async {
                time::sleep(SECOND).await;
                let before = port.attempts.get();
                let error = endpoint
                    .dial_at_once(Protocol::Http1, b"")
                    .await
                    .unwrap_err();
                assert!(matches!(error, DialError::Unreachable(_)));
                assert_eq!(port.attempts.get(), before);
            };
            let (waited, ()) = tokio::join!(waiting, at_once);
            waited.unwrap();
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn who_tries_at_once_takes_the_turn_while_nobody_listens() {
    let endpoint = endpoint();
    let schedule = &endpoint.schedule;
    let is_free = || schedule.turn_at_once().is_ok();
    // While nothing is known, none waits for another one.
    let first = schedule.turn_at_once().unwrap();
    assert!(first.is_none() && is_free());

    schedule.note_failure(0, &refused());
    assert!(!is_free(), "none is due");
    time::advance(10 * SECOND).await;
    let turn = schedule.turn_at_once().unwrap();

    assert!(turn.is_some() && !is_free());
    drop(turn);
    assert!(is_free());
}
