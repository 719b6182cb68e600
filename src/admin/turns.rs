//! Turns in which the responses of the admin listener begin.
//!
//! All connections share one thread. Without turns, each of them would respond to its requests, of
//! which clients may send hundreds at once, before the next connection is accepted.
//!
//! # Invariants
//!
//! * One response begins in each turn of the runtime, health checks aside: those wait for no turn.
//! * Turns are in the order of the requests; a connection that has responded goes to the end.

use tokio::{sync::Mutex, task};

/// The queue for a turn: a mutex of tokio is fair.
#[derive(Debug, Default)]
pub(super) struct ResponseTurns(Mutex<()>);

impl ResponseTurns {
    /// Resolves in the turn of the runtime that is for this response.
    pub(super) async fn next(&self) {
        let _turn = self.0.lock().await;
        // In between, the runtime polls all other tasks and the sockets.
        task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
        task::{LocalSet, spawn_local},
    };

    use crate::{
        admin::{Admin, health, serve},
        client_addr::ClientAddr,
        transport::Transport,
    };

    /// Connections with many requests, and the requests of each.
    const CROWD: usize = 16;
    const PIPELINE: usize = 20;

    /// Opens a connection on which `count` requests for `path` have arrived.
    async fn ask(admin: &Rc<Admin>, path: &str, count: usize) -> UnixStream {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        peer.write_all(request.repeat(count).as_bytes())
            .await
            .unwrap();
        let visitor = admin.welcome().await;
        let served = serve(
            Transport::Unix(ours),
            ClientAddr::Unix,
            Rc::clone(admin),
            visitor,
        );
        spawn_local(served);
        peer
    }

    async fn await_answer(peer: &mut UnixStream) {
        let mut answer = Vec::new();
        while !answer.starts_with(b"HTTP/1.1 200 ") {
            assert_ne!(peer.read_buf(&mut answer).await.unwrap(), 0);
        }
    }

    /// Returns the number of responses that each has got so far.
    fn count_answers(crowd: &[UnixStream]) -> Vec<usize> {
        let count = |peer: &UnixStream| {
            let mut answers = vec![0; 1 << 20];
            let read = peer.try_read(&mut answers).unwrap_or(0);
            String::from_utf8_lossy(&answers[..read])
                .matches("HTTP/1.1 ")
                .count()
        };
        crowd.iter().map(count).collect()
    }

    /// Asks for `path` behind a crowd, and returns the number of responses to each of that by then.
    async fn behind_a_crowd(path: &str) -> Vec<usize> {
        let admin = health::tests::admin(Vec::new());
        let run = async {
            let mut crowd = Vec::new();
            for _ in 0..CROWD {
                crowd.push(ask(&admin, "/build", PIPELINE).await);
            }
            await_answer(&mut ask(&admin, path, 1).await).await;
            count_answers(&crowd)
        };
        LocalSet::new().run_until(run).await
    }

    #[tokio::test]
    async fn health_is_answered_before_a_crowd_has_an_answer_each() {
        let answers = behind_a_crowd("/livez").await;

        assert!(answers.contains(&0), "{answers:?}");
        assert!(answers.iter().all(|count| *count <= 1), "{answers:?}");
    }

    #[tokio::test]
    async fn a_single_request_passes_those_behind_the_first_of_others() {
        let answers = behind_a_crowd("/build").await;

        assert!(answers.iter().all(|count| *count <= 2), "{answers:?}");
    }
}
