//! A session with both far ends under the test's control, byte by byte.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use readygate::session::{Report, Settings};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::sleep,
};

use crate::support::*;

/// Long enough for a session to look at what was written.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Phase of the session when the test's frames arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The upstream is connected and not ready.
    Held,
    /// The gate is open.
    Tunnel,
}

/// Both of them.
pub(crate) const PHASES: [Phase; 2] = [Phase::Held, Phase::Tunnel];

/// Segmentation of the test's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segments {
    Whole,
    Bytes,
}

/// Both of them.
pub(crate) const SEGMENTS: [Segments; 2] = [Segments::Whole, Segments::Bytes];

/// A session with both far ends in the test's hands.
pub(crate) struct Scene {
    pub(crate) client: DuplexStream,
    pub(crate) upstream: DuplexStream,
    pub(crate) report: JoinHandle<Report>,
}

/// Everything that both sides received, once the session has ended.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) client: Vec<Frame>,
    pub(crate) upstream: Vec<Frame>,
    pub(crate) report: Report,
}

impl Scene {
    pub(crate) async fn set(phase: Phase) -> Self {
        Self::run(match phase {
            Phase::Held => gated(),
            Phase::Tunnel => Settings::default(),
        })
        .await
    }

    /// A session with `settings` whose upstream is connected.
    pub(crate) async fn run(settings: Settings) -> Self {
        let running = start(settings);
        let upstream = running.upstream.connect(b"");
        sleep(TICK).await;
        Self {
            client: running.client,
            upstream,
            report: running.report,
        }
    }

    /// The client sends a frame.
    pub(crate) async fn client_says(&mut self, first: u8, payload: &[u8]) {
        let frame = client_frame(first, payload);
        self.client.write_all(&frame).await.unwrap();
    }

    /// The upstream sends a frame.
    pub(crate) async fn upstream_says(&mut self, first: u8, payload: &[u8]) {
        let frame = server_frame(first, payload);
        self.upstream.write_all(&frame).await.unwrap();
    }

    /// Waits until the session is over, and answers the close frames of the proxy as soon as
    /// they have come: the client with 1001, the upstream with 3001, which confirms.
    pub(crate) async fn end_answering(self) -> Told {
        let (mut client, client_answers) = tokio::io::split(self.client);
        let (mut upstream, upstream_answers) = tokio::io::split(self.upstream);
        let answer = [client_close(1001, ""), server_close(3001, "")];
        let (client, upstream) = tokio::join!(
            read_answering(&mut client, client_answers, &answer[0]),
            read_answering(&mut upstream, upstream_answers, &answer[1])
        );
        Told::of(&client, &upstream, self.report).await
    }

    /// Waits until the session is over.
    pub(crate) async fn end(mut self) -> Told {
        let (client, upstream) = tokio::join!(
            read_to_end(&mut self.client),
            read_to_end(&mut self.upstream)
        );
        Told::of(&client, &upstream, self.report).await
    }
}

/// Everything that comes until the stream ends; a close frame is answered.
async fn read_answering(
    from: &mut (impl AsyncRead + Unpin),
    mut answers: impl AsyncWrite + Unpin,
    answer: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut is_answered = false;
    while from.read_buf(&mut bytes).await.unwrap() > 0 {
        let mut frames = &bytes[..];
        while let Some(frame) = Frame::take(&mut frames) {
            if frame.first == 0x88 && !is_answered {
                is_answered = true;
                // Whoever has closed first needs no answer any more.
                let _ = answers.write_all(answer).await;
            }
        }
    }
    bytes
}

impl Told {
    async fn of(client: &[u8], upstream: &[u8], report: JoinHandle<Report>) -> Self {
        let told = Self {
            client: Frame::all(client),
            upstream: Frame::all(upstream),
            report: report.await.unwrap(),
        };
        assert!(told.client.iter().all(|frame| frame.key.is_none()));
        assert!(told.upstream.iter().all(|frame| frame.key.is_some()));
        told
    }

    /// The code and the reason of the only close frame among `frames`, which is the last.
    pub(crate) fn close(frames: &[Frame]) -> (u16, String) {
        let (last, before) = frames.split_last().expect("a close frame");
        assert_eq!(last.first, 0x88, "{frames:?}");
        assert!(before.iter().all(|frame| frame.first != 0x88), "{frames:?}");
        let Some((code, reason)) = last.payload.split_first_chunk() else {
            assert!(last.payload.is_empty());
            return (1005, String::new());
        };
        let reason = String::from_utf8(reason.to_vec()).unwrap();
        (u16::from_be_bytes(*code), reason)
    }

    pub(crate) fn client_close(&self) -> (u16, String) {
        Self::close(&self.client)
    }

    pub(crate) fn upstream_close(&self) -> (u16, String) {
        Self::close(&self.upstream)
    }

    /// Returns the upstream's frames, unmasked and without its close frame.
    pub(crate) fn before_upstream_close(&self) -> Vec<(u8, &[u8])> {
        let (_, before) = self.upstream.split_last().expect("a close frame");
        before.iter().map(Frame::content).collect()
    }

    pub(crate) fn before_client_close(&self) -> Vec<(u8, &[u8])> {
        let (_, before) = self.client.split_last().expect("a close frame");
        before.iter().map(Frame::content).collect()
    }
}

/// Writes `bytes` and gives the session time to look at each segment.
pub(crate) async fn write(to: &mut DuplexStream, bytes: &[u8], segments: Segments) {
    let segment_bytes = match segments {
        Segments::Whole => bytes.len(),
        Segments::Bytes => 1,
    };
    for segment in bytes.chunks(segment_bytes) {
        // A session that has seen enough may be gone.
        if to.write_all(segment).await.is_err() {
            return;
        }
        sleep(TICK).await;
    }
}

pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

pub(crate) fn client_close(code: u16, reason: &str) -> Vec<u8> {
    client_frame(0x88, &close_payload(code, reason))
}

pub(crate) fn server_close(code: u16, reason: &str) -> Vec<u8> {
    server_frame(0x88, &close_payload(code, reason))
}

pub(crate) fn each_way() -> impl Iterator<Item = (Phase, Segments)> {
    PHASES
        .into_iter()
        .flat_map(|phase| SEGMENTS.into_iter().map(move |segments| (phase, segments)))
}
