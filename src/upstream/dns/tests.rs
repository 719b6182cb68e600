//! Lookups that a test answers.

use std::sync::{
    atomic::{AtomicUsize, Ordering},
    mpsc,
};

use futures_util::{FutureExt, future::join_all};
use tokio::time;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

type Answer = io::Result<Vec<IpAddr>>;

/// Names that are looked up when an answer is sent, and how many lookups have begun.
fn names() -> (Names, mpsc::Sender<Answer>, Arc<AtomicUsize>) {
    let (answer, answers) = mpsc::channel();
    let answers = Mutex::new(answers);
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let look_up = move |_: &str| {
        count.fetch_add(1, Ordering::SeqCst);
        let answers = answers.lock().unwrap();
        answers.recv().unwrap_or_else(|_over| Ok(Vec::new()))
    };
    (Names::looked_up_by(look_up), answer, begun)
}

#[tokio::test]
async fn all_who_wait_for_a_name_share_one_lookup() {
    let (names, answer, begun) = names();
    let name = names.of("app.internal");
    let mut all = Box::pin(join_all((0..1500).map(|_| name.addresses(80))));
    assert!(all.as_mut().now_or_never().is_none());

    answer.send(Ok(vec![LOOPBACK])).unwrap();

    for addresses in all.await {
        assert_eq!(addresses.unwrap(), [SocketAddr::new(LOOPBACK, 80)]);
    }
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    // And the same name in another route.
    let other = names.of("app.internal").addresses(81).await.unwrap();
    assert_eq!(other, [SocketAddr::new(LOOPBACK, 81)]);
    assert_eq!(begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_lookup_that_nobody_waits_for_any_more_is_the_next_ones() {
    let (names, answer, begun) = names();
    let name = names.of("slow.internal");
    for _ in 0..100 {
        assert!(Box::pin(name.addresses(80)).now_or_never().is_none());
    }
    let next = name.addresses(80);

    answer.send(Ok(vec![LOOPBACK])).unwrap();

    assert_eq!(next.await.unwrap().len(), 1);
    assert_eq!(begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_slow_name_does_not_delay_another_one() {
    let (answer, answers) = mpsc::channel::<()>();
    let answers = Mutex::new(answers);
    let names = Names::looked_up_by(move |host| {
        if host == "slow.internal" {
            let _ = answers.lock().unwrap().recv();
        }
        Ok(vec![LOOPBACK])
    });
    let slow = names.of("slow.internal");
    let mut waiting = Box::pin(slow.addresses(80));
    assert!(waiting.as_mut().now_or_never().is_none());

    names.of("quick.internal").addresses(80).await.unwrap();

    drop(answer);
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_result_is_kept_for_a_moment_unless_it_is_of_no_use() {
    let (names, answer, begun) = names();
    let name = names.of("app.internal");
    let begun = || begun.load(Ordering::SeqCst);
    let ask = async |expected: usize| {
        let addresses = name.addresses(80).await;
        assert_eq!(begun(), expected);
        addresses
    };
    answer.send(Ok(vec![LOOPBACK])).unwrap();
    ask(1).await.unwrap();
    ask(1).await.unwrap();

    name.forget(name.lookups());
    answer.send(Ok(Vec::new())).unwrap();
    assert!(ask(2).await.unwrap().is_empty());

    time::pause();
    time::advance(KEPT + FAILURE_KEPT).await;
    answer.send(Err(io::ErrorKind::NotFound.into())).unwrap();
    assert_eq!(ask(3).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    name.forget(name.lookups());
    assert!(name.state().result.is_some(), "it is believed for a moment");
}

#[tokio::test]
async fn who_finds_nobody_forgets_only_the_addresses_that_were_tried() {
    let (names, answer, begun) = names();
    let name = names.of("app.internal");
    answer.send(Ok(vec![LOOPBACK])).unwrap();
    name.addresses(80).await.unwrap();
    let tried = name.lookups();
    name.forget(tried);
    answer.send(Ok(vec![LOOPBACK])).unwrap();
    name.addresses(80).await.unwrap();

    name.forget(tried);

    name.addresses(80).await.unwrap();
    assert_eq!(begun.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn localhost_and_addresses_are_not_looked_up() {
    let names = Names::looked_up_by(|host| panic!("{host} is looked up"));
    for (host, count) in [
        ("localhost", 2),
        ("LocalHost", 2),
        ("127.0.0.1", 1),
        ("::1", 1),
    ] {
        assert_eq!(names.of(host).addresses(80).await.unwrap().len(), count);
    }
}

#[tokio::test]
async fn names_that_nobody_uses_are_forgotten() {
    let names = Names::looked_up_by(|_| Ok(vec![LOOPBACK]));
    for number in 0..100 {
        drop(names.of(&format!("app-{number}.internal")));
    }

    assert_eq!(names.known.lock().unwrap().len(), 1);
}
