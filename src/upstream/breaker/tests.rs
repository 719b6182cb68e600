//! A breaker on a paused clock, and what holds whatever happens to it.

use proptest::prelude::*;
use tokio::time;

use super::*;

const COOLDOWN: Duration = Duration::from_secs(10);

fn breaker(failures: u32) -> Arc<Breaker> {
    let settings = Settings {
        failures,
        cooldown: COOLDOWN,
    };
    Breaker::new(settings, "/")
}

fn state(breaker: &Breaker) -> State {
    breaker.status().state
}

fn fail(breaker: &Arc<Breaker>, times: u32) {
    for _ in 0..times {
        breaker.admit().unwrap().fail();
    }
}

/// Longer than a cooldown after `probes_failed` probes can be, and shorter than the next one.
fn beyond_cooldown(probes_failed: u32) -> Duration {
    COOLDOWN * (1 << probes_failed) * 12 / 10
}

/// An open one whose cooldown is over.
async fn cooled_down() -> Arc<Breaker> {
    let breaker = breaker(2);
    fail(&breaker, 2);
    time::advance(beyond_cooldown(0)).await;
    breaker
}

#[tokio::test(start_paused = true)]
async fn it_opens_after_so_many_failures_in_a_row_and_says_when_to_come_back() {
    let breaker = breaker(3);
    fail(&breaker, 2);
    breaker.admit().unwrap().succeed();
    fail(&breaker, 2);
    assert_eq!(breaker.status().failures, 2);
    let waiting = breaker.admit().unwrap();

    waiting.fail();

    assert_eq!(state(&breaker), State::Open);
    time::advance(COOLDOWN / 2).await;
    let Refused { retry_after } = breaker.admit().unwrap_err();
    assert!((COOLDOWN / 2..=COOLDOWN * 6 / 10).contains(&retry_after));
    assert_eq!(breaker.status().probe_in, Some(retry_after));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_says_nothing_neither_breaks_the_row_nor_counts() {
    let breaker = breaker(2);
    fail(&breaker, 1);
    for _ in 0..10 {
        drop(breaker.admit().unwrap());
    }
    assert_eq!(state(&breaker), State::Closed);

    fail(&breaker, 1);

    assert_eq!(state(&breaker), State::Open);
}

#[tokio::test(start_paused = true)]
async fn one_probe_is_let_through_after_the_cooldown_and_its_success_closes() {
    let breaker = cooled_down().await;

    let probe = breaker.admit().unwrap();

    assert_eq!(state(&breaker), State::HalfOpen);
    let Refused { retry_after } = breaker.admit().unwrap_err();
    assert_eq!(retry_after, COOLDOWN);
    probe.succeed();
    assert_eq!(state(&breaker), State::Closed);
    assert_eq!(breaker.status().failures, 0);
    let _all = [breaker.admit().unwrap(), breaker.admit().unwrap()];
    assert_eq!(breaker.status().transitions, [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn each_probe_that_fails_doubles_the_cooldown_up_to_a_bound() {
    let breaker = cooled_down().await;
    for doublings in [1, 2, 3, 3, 3] {
        breaker.admit().unwrap().fail();
        let cooldown = COOLDOWN * (1 << doublings);

        let Refused { retry_after } = breaker.admit().unwrap_err();

        assert!(
            (cooldown..=cooldown * 11 / 10).contains(&retry_after),
            "{retry_after:?}"
        );
        time::advance(beyond_cooldown(doublings)).await;
    }

    // And begins anew once all was well.
    breaker.admit().unwrap().succeed();
    fail(&breaker, 2);
    let Refused { retry_after } = breaker.admit().unwrap_err();
    assert!(retry_after <= COOLDOWN * 11 / 10);
}

#[tokio::test(start_paused = true)]
async fn breakers_that_open_together_do_not_probe_together() {
    let probe_in = |_| {
        let breaker = breaker(1);
        fail(&breaker, 1);
        breaker.status().probe_in.unwrap()
    };

    let all: Vec<_> = (0..50).map(probe_in).collect();

    let (first, last) = (all.iter().min().unwrap(), all.iter().max().unwrap());
    assert!(*first >= COOLDOWN && *last <= COOLDOWN * 11 / 10, "{all:?}");
    // That they are as close as that by chance is less likely than one in a million million.
    assert!(*last > *first + COOLDOWN / 20, "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_says_nothing_makes_room_for_the_next() {
    let breaker = cooled_down().await;
    for _ in 0..5 {
        let probe = breaker.admit().unwrap();
        assert!(breaker.admit().is_err());
        drop(probe);
        assert_eq!(state(&breaker), State::HalfOpen);
    }

    breaker.admit().unwrap().fail();

    assert_eq!(state(&breaker), State::Open);
}

#[tokio::test(start_paused = true)]
async fn the_first_session_that_becomes_ready_closes_it_although_it_is_not_the_probe() {
    let breaker = breaker(2);
    let waiting = [breaker.admit().unwrap(), breaker.admit().unwrap()];
    fail(&breaker, 2);

    let [first, second] = waiting;
    first.succeed();
    assert_eq!(state(&breaker), State::Closed);

    fail(&breaker, 2);
    time::advance(beyond_cooldown(0)).await;
    let _probe = breaker.admit().unwrap();
    second.succeed();
    assert_eq!(state(&breaker), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn sessions_that_began_before_do_not_speak_for_the_probe() {
    let breaker = breaker(2);
    let mut waiting: Vec<_> = (0..4).map(|_| breaker.admit().unwrap()).collect();
    fail(&breaker, 2);
    let until = breaker.status().probe_in;
    waiting.pop().unwrap().fail();
    assert_eq!(breaker.status().probe_in, until, "it is not put off");
    time::advance(beyond_cooldown(0)).await;

    let old_probe = breaker.admit().unwrap();
    waiting.pop().unwrap().fail();
    waiting.pop();
    assert_eq!(state(&breaker), State::HalfOpen);
    assert!(breaker.admit().is_err());

    // Another one succeeds; then all begins anew, and the old probe is one of many.
    waiting.pop().unwrap().succeed();
    fail(&breaker, 2);
    time::advance(beyond_cooldown(0)).await;
    let _probe = breaker.admit().unwrap();
    drop(old_probe);
    assert!(breaker.admit().is_err());
}

#[tokio::test(start_paused = true)]
async fn with_no_number_of_failures_it_never_opens() {
    let breaker = breaker(0);

    fail(&breaker, 1000);

    assert_eq!(state(&breaker), State::Closed);
}

/// What may happen to a breaker.
#[derive(Clone, Copy, Debug)]
enum Step {
    Admit,
    Wait(u8),
    Succeed(u8),
    Fail(u8),
    GiveUp(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Admit),
        2 => any::<u8>().prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::Succeed),
        3 => any::<u8>().prop_map(Step::Fail),
        2 => any::<u8>().prop_map(Step::GiveUp),
    ]
}

proptest! {
    #[test]
    fn at_most_one_probe_is_under_way_and_it_is_never_stuck(
        failures in 1..4_u32,
        steps in prop::collection::vec(step(), 0..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let breaker = breaker(failures);
            let mut trials: Vec<Trial> = Vec::new();
            // A model: how many in a row have failed since the last success.
            let mut in_a_row = 0;
            for step in steps {
                let before = state(&breaker);
                let pick = |index: u8, trials: &mut Vec<Trial>| {
                    let index = usize::from(index) % trials.len().max(1);
                    (index < trials.len()).then(|| trials.swap_remove(index))
                };
                match step {
                    Step::Admit => trials.extend(breaker.admit().ok()),
                    Step::Wait(tenths) => time::advance(COOLDOWN * u32::from(tenths) / 100).await,
                    Step::Succeed(index) => {
                        if let Some(trial) = pick(index, &mut trials) {
                            trial.succeed();
                            in_a_row = 0;
                            assert_eq!(state(&breaker), State::Closed);
                        }
                    }
                    Step::Fail(index) => {
                        if let Some(trial) = pick(index, &mut trials) {
                            trial.fail();
                            in_a_row += 1;
                        }
                    }
                    Step::GiveUp(index) => drop(pick(index, &mut trials)),
                }
                let after = state(&breaker);
                if before == State::Closed {
                    assert_eq!(after == State::Open, in_a_row >= failures);
                }
                let speaks_for_it = |trial: &&Trial| {
                    let number = trial.0.as_ref().and_then(|it| it.probe);
                    matches!(*breaker.phase(), Phase::HalfOpen { probe, .. }
                        if probe.is_some() && probe == number)
                };
                let probes = trials.iter().filter(speaks_for_it).count();
                let is_awaited =
                    matches!(*breaker.phase(), Phase::HalfOpen { probe: Some(_), .. });
                assert_eq!(probes, usize::from(is_awaited));
                let is_quick_right = breaker.quick.load(Ordering::Relaxed)
                    == breaker.phase().quick();
                assert!(is_quick_right);
            }

            // Whatever has happened: when nobody is left, somebody is let through in time.
            trials.clear();
            time::advance(beyond_cooldown(MAX_DOUBLINGS)).await;
            assert!(breaker.admit().is_ok());
        });
    }
}
