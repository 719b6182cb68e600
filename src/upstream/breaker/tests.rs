//! A breaker on a paused clock, and what holds whatever happens to it.

use proptest::prelude::*;
use tokio::time;

use super::*;

const COOLDOWN: Duration = Duration::from_secs(10);

/// Longer than any cooldown.
const LONG_COOLDOWN: Duration = Duration::from_secs(12);

const fn settings(failures: u32) -> BreakerSettings {
    BreakerSettings {
        failures,
        cooldown: COOLDOWN,
    }
}

fn breaker(failures: u32) -> Breaker {
    Breaker::new(settings(failures), "/")
}

fn state(breaker: &Breaker) -> BreakerState {
    breaker.status().state
}

fn try_admit(breaker: &Breaker) -> Result<Ticket, Unhealthy> {
    breaker.admit(|| false).map(Option::unwrap)
}

fn admit(breaker: &Breaker) -> Ticket {
    try_admit(breaker).unwrap()
}

fn fail(breaker: &Breaker, times: u32) {
    for _ in 0..times {
        breaker.fail(&admit(breaker));
    }
}

/// An open one whose cooldown is over.
async fn cooled_down() -> Breaker {
    let breaker = breaker(2);
    fail(&breaker, 2);
    time::advance(LONG_COOLDOWN).await;
    breaker
}

#[tokio::test(start_paused = true)]
async fn it_opens_after_so_many_failures_and_says_when_to_come_back() {
    let breaker = breaker(3);
    fail(&breaker, 2);
    breaker.succeed(&admit(&breaker));
    fail(&breaker, 2);
    assert_eq!(breaker.status().failures, 2);
    let waiting = admit(&breaker);

    assert!(breaker.fail(&waiting));

    assert_eq!(state(&breaker), BreakerState::Open);
    time::advance(COOLDOWN / 2).await;
    let Unhealthy { retry_after } = try_admit(&breaker).unwrap_err();
    assert!((COOLDOWN / 2..=COOLDOWN * 6 / 10).contains(&retry_after));
    assert_eq!(breaker.status().probe_in, Some(retry_after));
}

#[tokio::test(start_paused = true)]
async fn failures_of_sessions_before_a_ready_one_do_not_count() {
    let breaker = breaker(2);
    let waiting: Vec<_> = (0..100).map(|_| admit(&breaker)).collect();
    breaker.succeed(&admit(&breaker));

    for ticket in &waiting {
        assert!(!breaker.fail(ticket));
    }

    assert_eq!(breaker.status().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_neither_counts_nor_resets_the_count() {
    let breaker = breaker(2);
    fail(&breaker, 1);
    for _ in 0..10 {
        breaker.give_up(&admit(&breaker));
    }
    assert_eq!(state(&breaker), BreakerState::Closed);

    fail(&breaker, 1);

    assert_eq!(state(&breaker), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn the_first_ready_session_after_the_cooldown_closes_it() {
    let breaker = cooled_down().await;
    let trials: Vec<_> = (0..TRIALS).map(|_| admit(&breaker)).collect();

    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    let Unhealthy { retry_after } = try_admit(&breaker).unwrap_err();
    assert_eq!(retry_after, PATIENCE);
    breaker.succeed(&trials[1]);
    assert_eq!(state(&breaker), BreakerState::Closed);
    assert_eq!(breaker.status().failures, 0);
    breaker.fail(&trials[0]);
    assert_eq!(breaker.status().failures, 0);
    assert_eq!(breaker.status().transitions, [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_soon_opens_it_again_for_no_longer_than_before() {
    for _ in 0..3 {
        let breaker = cooled_down().await;
        let failing = admit(&breaker);
        assert!(breaker.fail(&failing));

        let Unhealthy { retry_after } = try_admit(&breaker).unwrap_err();

        let range = COOLDOWN..=COOLDOWN * 11 / 10;
        assert!(range.contains(&retry_after), "{retry_after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_undecided_session_makes_room_and_cannot_reopen_it() {
    let breaker = cooled_down().await;
    let silent: Vec<_> = (0..TRIALS).map(|_| admit(&breaker)).collect();
    time::advance(PATIENCE / 2).await;
    assert_eq!(
        try_admit(&breaker).unwrap_err().retry_after,
        PATIENCE / 2,
        "there is room when the first have been undecided for long"
    );
    time::advance(PATIENCE / 2).await;

    // Before somebody takes its place, and after that.
    assert!(!breaker.fail(&silent[0]));
    let next: Vec<_> = (0..TRIALS).map(|_| admit(&breaker)).collect();
    assert!(!breaker.fail(&silent[1]));
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    assert!(try_admit(&breaker).is_err());
    breaker.give_up(&next[0]);
    admit(&breaker);
    breaker.succeed(&silent[2]);

    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_through_while_the_proxy_itself_tries() {
    let breaker = cooled_down().await;
    let is_refused = || breaker.admit(|| true).is_err();
    assert!(is_refused());

    breaker.hear();

    assert_eq!(state(&breaker), BreakerState::Closed);
    assert!(!is_refused());
}

#[tokio::test(start_paused = true)]
async fn breakers_that_open_together_do_not_try_together() {
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
async fn earlier_sessions_do_not_decide_for_those_let_through() {
    let breaker = breaker(2);
    let waiting: Vec<_> = (0..3).map(|_| admit(&breaker)).collect();
    fail(&breaker, 2);
    let until = breaker.status().probe_in;
    assert!(!breaker.fail(&waiting[0]));
    assert_eq!(breaker.status().probe_in, until, "it is not put off");
    time::advance(LONG_COOLDOWN).await;
    admit(&breaker);

    assert!(!breaker.fail(&waiting[1]));

    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    breaker.succeed(&waiting[2]);
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_began_before_the_configuration_changed_says_nothing() {
    let breaker = breaker(1);
    let waiting: Vec<_> = (0..2).map(|_| admit(&breaker)).collect();
    breaker.forget(settings(1));
    assert!(!breaker.fail(&waiting[0]));
    fail(&breaker, 1);

    breaker.succeed(&waiting[1]);

    assert_eq!(state(&breaker), BreakerState::Open);
    let next = breaker.follow(settings(1));
    assert_eq!(state(&next), BreakerState::Closed);
    assert_eq!(next.status().transitions, [1, 1, 0], "no count goes back");
}

#[tokio::test(start_paused = true)]
async fn with_no_number_of_failures_it_never_opens() {
    let breaker = breaker(0);

    assert!(breaker.admit(|| false).unwrap().is_none());
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
        4 => Just(Step::Admit),
        2 => any::<u8>().prop_map(Step::Wait),
        1 => any::<u8>().prop_map(Step::Succeed),
        3 => any::<u8>().prop_map(Step::Fail),
        2 => any::<u8>().prop_map(Step::GiveUp),
    ]
}

/// Whether the session is one of those that are let through half-open, and still awaited.
fn is_on_trial(breaker: &Breaker, ticket: &Ticket) -> bool {
    match breaker.inner().phase {
        Phase::HalfOpen { trials } => trials
            .iter()
            .flatten()
            .any(|slot| Some(slot.number) == ticket.trial && slot.is_awaited()),
        Phase::Closed { .. } | Phase::Open { .. } => false,
    }
}

proptest! {
    #[test]
    fn only_an_awaited_session_reopens_it(
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
            // Each with how many had become ready when it began.
            let mut sessions: Vec<(Ticket, u32)> = Vec::new();
            let (mut ready, mut failed) = (0, 0);
            for step in steps {
                let before = state(&breaker);
                let pick = |index: u8, sessions: &mut Vec<(Ticket, u32)>| {
                    let index = usize::from(index) % sessions.len().max(1);
                    (index < sessions.len()).then(|| sessions.swap_remove(index))
                };
                let mut was_on_trial = false;
                match step {
                    Step::Admit => {
                        sessions.extend(try_admit(&breaker).ok().map(|ticket| (ticket, ready)));
                    }
                    Step::Wait(tenths) => time::advance(COOLDOWN * u32::from(tenths) / 100).await,
                    Step::Succeed(index) => {
                        if let Some((ticket, _)) = pick(index, &mut sessions) {
                            breaker.succeed(&ticket);
                            (ready, failed) = (ready + 1, 0);
                            assert_eq!(state(&breaker), BreakerState::Closed);
                        }
                    }
                    Step::Fail(index) => {
                        if let Some((ticket, seen)) = pick(index, &mut sessions) {
                            was_on_trial = is_on_trial(&breaker, &ticket);
                            let opens = breaker.fail(&ticket);
                            failed += u32::from(seen == ready);
                            assert_eq!(
                                opens,
                                before != BreakerState::Open && state(&breaker) == BreakerState::Open
                            );
                        }
                    }
                    Step::GiveUp(index) => {
                        if let Some((ticket, _)) = pick(index, &mut sessions) {
                            breaker.give_up(&ticket);
                        }
                    }
                }
                let after = state(&breaker);
                match before {
                    BreakerState::Closed => assert_eq!(after == BreakerState::Open, failed >= failures),
                    BreakerState::HalfOpen => assert_eq!(after == BreakerState::Open, was_on_trial),
                    BreakerState::Open => {}
                }
                let on_trial = |session: &&(Ticket, u32)| is_on_trial(&breaker, &session.0);
                assert!(sessions.iter().filter(on_trial).count() <= TRIALS);
                let quick = breaker.inner().quick();
                assert_eq!(breaker.quick.load(Ordering::Relaxed), quick);
            }

            // Whatever has happened, and although nobody is decided: somebody is let through in
            // time.
            time::advance(LONG_COOLDOWN).await;
            assert!(try_admit(&breaker).is_ok());
        });
    }
}
