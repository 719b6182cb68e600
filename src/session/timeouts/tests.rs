//! Liveness of one side, and the timeouts of a session, on a paused clock.

use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

const QUIET: Side = Side {
    is_read: true,
    has_backlog: false,
    taken_bytes: 0,
};

/// A side that was pinged at the end of the first interval.
async fn asked() -> (Liveness, WriteBuffer) {
    let mut pulse = Liveness::new(Instant::now());
    let mut write_buffer = WriteBuffer::default();
    time::advance(INTERVAL).await;
    pulse.look(Instant::now(), INTERVAL, QUIET).unwrap();
    assert!(pulse.send(&mut write_buffer, |_| ping_for_client()));
    (pulse, write_buffer)
}

#[tokio::test(start_paused = true)]
async fn a_side_is_pinged_an_interval_after_it_last_sent() {
    let mut pulse = Liveness::new(Instant::now());
    time::advance(INTERVAL / 2).await;
    pulse.heard_at = Instant::now();
    time::advance(INTERVAL / 2).await;

    let next = pulse.look(Instant::now(), INTERVAL, QUIET);

    assert_eq!(next, Ok(Instant::now() + INTERVAL / 2));
    assert!(!pulse.send(&mut WriteBuffer::default(), |_| ping_for_client()));
}

#[tokio::test(start_paused = true)]
async fn only_a_silent_side_times_out() {
    let (silent, _) = asked().await;
    let mut answering = silent;
    time::advance(INTERVAL / 2).await;
    answering.heard_at = Instant::now();
    time::advance(INTERVAL / 2).await;

    let look = |mut pulse: Liveness| pulse.look(Instant::now(), INTERVAL, QUIET);

    assert_eq!(look(silent), Err(PeerTimeout));
    assert_eq!(look(answering), Ok(Instant::now() + INTERVAL / 2));
}

#[tokio::test(start_paused = true)]
async fn a_side_under_backpressure_or_draining_never_times_out() {
    let (asked, _) = asked().await;
    time::advance(INTERVAL).await;
    let look = |side: Side| {
        let mut pulse = asked;
        pulse.look(Instant::now(), INTERVAL, side)
    };
    let unread = Side {
        is_read: false,
        ..QUIET
    };
    let stalled = Side {
        has_backlog: true,
        ..QUIET
    };
    let taking = Side {
        taken_bytes: 1,
        ..stalled
    };

    assert!(look(unread).is_ok());
    assert!(look(taking).is_ok());
    assert_eq!(look(stalled), Err(PeerTimeout));
}

#[tokio::test(start_paused = true)]
async fn a_ping_waits_for_a_boundary_and_then_a_whole_interval() {
    let mut pulse = Liveness::new(Instant::now());
    let mut write_buffer = WriteBuffer::default();
    write_buffer.note_passed(false);
    for _ in 0..5 {
        time::advance(INTERVAL).await;
        assert!(pulse.look(Instant::now(), INTERVAL, QUIET).is_ok());
        assert!(!pulse.send(&mut write_buffer, |_| ping_for_client()));
    }

    time::advance(INTERVAL / 2).await;
    write_buffer.note_passed(true);
    assert!(pulse.send(&mut write_buffer, |_| ping_for_client()));
    assert!(
        !pulse.send(&mut write_buffer, |_| ping_for_client()),
        "once"
    );

    time::advance(INTERVAL / 2).await;
    let next = pulse.look(Instant::now(), INTERVAL, QUIET);
    assert_eq!(next, Ok(Instant::now() + INTERVAL / 2));
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_up_to_10_percent_before_its_maximum_age() {
    let max = Duration::from_hours(1);
    let settings = Settings {
        max_session_age: Some(max),
        ..Settings::default()
    };
    let now = Instant::now();
    let ages: Vec<_> = (0..1000)
        .filter_map(|_| Keepalive::new(&settings, now)?.ends_at)
        .map(|at| at - now)
        .collect();

    assert_eq!(ages.len(), 1000);
    assert!(ages.iter().all(|age| (max * 9 / 10..=max).contains(age)));
    let (least, greatest) = (ages.iter().min(), ages.iter().max());
    let is_spread = *least.unwrap() + max / 20 < *greatest.unwrap();
    assert!(is_spread, "{least:?} to {greatest:?}");
}

#[tokio::test(start_paused = true)]
async fn accepted_data_counts_however_often_it_is_checked() {
    let settings = Settings {
        idle_timeout: Some(INTERVAL),
        ..Settings::default()
    };
    for is_client in [true, false] {
        let record = SessionStats::accepted();
        let mut watch = Keepalive::new(&settings, record.started()).unwrap();
        let mut idle_at = |taken_bytes| {
            let taking = Side {
                has_backlog: true,
                taken_bytes,
                ..QUIET
            };
            let (client, upstream) = if is_client {
                (taking, QUIET)
            } else {
                (QUIET, taking)
            };
            watch.idle_at(Instant::now(), &record, client, upstream)
        };
        assert_eq!(idle_at(0), Some(record.started() + INTERVAL));

        time::advance(INTERVAL * 9 / 10).await;
        let put_off = Some(Instant::now() + INTERVAL);
        assert_eq!(idle_at(1000), put_off);

        time::advance(INTERVAL / 2).await;
        assert_eq!(idle_at(1000), put_off);
    }
}

#[test]
fn a_session_without_bounds_has_no_watch() {
    assert!(Keepalive::new(&Settings::default(), Instant::now()).is_none());
}
