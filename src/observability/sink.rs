//! Destination of log lines: a queue, which a dedicated thread writes out.
//!
//! Logging never waits for standard output: a pipe that is not read, or a stopped terminal, would
//! stop all clients of a worker.
//!
//! # Invariants
//!
//! * At most [`MAX_QUEUED_BYTES`] wait, including those that are being written. A line that does
//!   not fit is dropped and counted; lines that are written are whole and in order.
//! * A closed standard output is not an error: the lines count as dropped.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Most bytes that may wait to be written.
pub const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// Capacity that an empty queue keeps, in bytes.
const KEPT_BYTES: usize = 64 * 1024;

/// Pause before retrying an output that is non-blocking and full.
const PAUSE: Duration = Duration::from_millis(10);

/// Queue with its thread; clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Sink(Arc<SinkState>);

#[derive(Debug, Default)]
struct SinkState {
    queue: Mutex<LineQueue>,
    /// Notified when there is something to write.
    filled: Condvar,
    /// Notified when everything is written.
    emptied: Condvar,
    dropped_lines: AtomicU64,
}

#[derive(Debug, Default)]
struct LineQueue {
    waiting: Vec<u8>,
    /// Bytes being written.
    in_flight_bytes: usize,
}

impl LineQueue {
    fn bytes(&self) -> usize {
        self.waiting.len() + self.in_flight_bytes
    }
}

impl Sink {
    /// Starts writing to standard output. `say_dropped` is called on the writing thread with the
    /// number of dropped lines, once lines are written again.
    ///
    /// # Errors
    ///
    /// No thread or no file descriptor is available.
    pub(crate) fn to_stdout(say_dropped: impl Fn(u64) + Send + 'static) -> io::Result<Self> {
        // Not `Stdout` itself: its lock would be held while it blocks, and the end of the program
        // would wait for it.
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Self::to(stdout, say_dropped)
    }

    /// Starts writing to another output, like [`to_stdout`](Self::to_stdout).
    ///
    /// # Errors
    ///
    /// No thread is available.
    pub(crate) fn to(
        output: impl Write + Send + 'static,
        say_dropped: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let sink = Self(Arc::default());
        let shared = Arc::clone(&sink.0);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write(output, say_dropped))?;
        Ok(sink)
    }

    /// Queues a line, which ends with its line feed, or drops it.
    pub(crate) fn push(&self, line: &[u8]) {
        let mut queue = self.0.lock();
        // The new line is dropped rather than old ones, which show how the trouble began.
        if queue.bytes() + line.len() > MAX_QUEUED_BYTES {
            self.0.dropped_lines.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_idle = queue.bytes() == 0;
        queue.waiting.extend_from_slice(line);
        // A thread that is still writing checks the queue again by itself.
        if was_idle {
            self.0.filled.notify_one();
        }
    }

    /// Waits until everything is written, but not longer than `timeout`.
    pub(crate) fn flush(&self, timeout: Duration) {
        let queue = self.0.lock();
        let is_filled = |queue: &mut LineQueue| queue.bytes() > 0;
        let _ = self.0.emptied.wait_timeout_while(queue, timeout, is_filled);
    }

    /// Bytes that wait to be written.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.0.lock().bytes()
    }

    /// Lines dropped so far.
    pub(crate) fn dropped_lines(&self) -> u64 {
        self.0.dropped_lines.load(Ordering::Relaxed)
    }
}

impl SinkState {
    fn lock(&self) -> MutexGuard<'_, LineQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is queued, forever.
    fn write(&self, mut output: impl Write, say_dropped: impl Fn(u64)) {
        let mut said_lines = 0;
        let mut batch = Vec::new();
        loop {
            self.next_batch(&mut batch);
            let written = write_all(&mut output, &batch);
            // A line is lost unless its line feed was written.
            let lines = batch[written..].iter().filter(|byte| **byte == b'\n');
            let lost_lines = lines.count() as u64;
            let dropped = self.dropped_lines.fetch_add(lost_lines, Ordering::Relaxed) + lost_lines;
            if lost_lines == 0 && dropped > said_lines {
                // The batch is written, so there is room again; one byte keeps the queue from
                // counting as empty.
                self.lock().in_flight_bytes = 1;
                say_dropped(dropped - said_lines);
                said_lines = dropped;
            }
        }
    }

    /// Finishes the batch before, waits for something to write, and takes all of it.
    fn next_batch(&self, batch: &mut Vec<u8>) {
        batch.clear();
        batch.shrink_to(KEPT_BYTES);
        let mut queue = self.lock();
        queue.in_flight_bytes = 0;
        while queue.waiting.is_empty() {
            self.emptied.notify_all();
            let filled = self.filled.wait(queue);
            queue = filled.unwrap_or_else(PoisonError::into_inner);
        }
        // The two buffers swap roles, so neither is allocated again.
        std::mem::swap(batch, &mut queue.waiting);
        queue.in_flight_bytes = batch.len();
    }
}

/// Writes as much as possible, and returns the number of bytes.
fn write_all(output: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The parent process may have made the output non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_closed_or_full) => break,
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use std::{
        io::{PipeReader, Read, pipe},
        sync::mpsc,
    };

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    fn to_pipe() -> (Sink, PipeReader, mpsc::Receiver<u64>) {
        let (reader, writer) = pipe().unwrap();
        let (said, dropped) = mpsc::channel();
        let sink = Sink::to(writer, move |lines| said.send(lines).unwrap()).unwrap();
        (sink, reader, dropped)
    }

    #[test]
    fn lines_are_written_whole_and_in_order() {
        let (sink, mut reader, _dropped) = to_pipe();

        for number in 100..1000 {
            sink.push(format!("line {number}\n").as_bytes());
        }

        let mut read = [0; 9 * 900];
        reader.read_exact(&mut read).unwrap();
        let read = String::from_utf8(read.to_vec()).unwrap();
        let expected: Vec<_> = (100..1000).map(|it| format!("line {it}")).collect();
        assert_eq!(read.lines().collect::<Vec<_>>(), expected);
        sink.flush(LONG);
        assert_eq!(sink.queued_bytes(), 0);
    }

    #[test]
    fn what_nobody_reads_is_bounded_and_counted_and_said_once() {
        let (sink, mut reader, dropped) = to_pipe();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();

        // The pipe takes some more.
        let pushed = 2 * MAX_QUEUED_BYTES / line.len();
        for _ in 0..pushed {
            sink.push(&line);
        }

        let lost = sink.dropped_lines();
        assert!(lost > 0);
        assert!(sink.queued_bytes() <= MAX_QUEUED_BYTES);
        let kept = pushed - usize::try_from(lost).unwrap();
        let mut read = vec![0; kept * line.len()];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(dropped.recv().unwrap(), lost);
        sink.push(&line);
        reader.read_exact(&mut read[..line.len()]).unwrap();
        sink.flush(LONG);
        assert!(dropped.try_recv().is_err());
    }

    #[test]
    fn to_flush_takes_no_longer_than_it_may() {
        let (sink, reader, _dropped) = to_pipe();
        sink.push(&b"x".repeat(MAX_QUEUED_BYTES));

        sink.flush(Duration::from_millis(1));

        assert!(sink.queued_bytes() > 0);
        drop(reader);
    }

    #[test]
    fn lines_for_a_closed_output_are_dropped() {
        let (sink, reader, _dropped) = to_pipe();
        drop(reader);

        for _ in 0..3 {
            sink.push(b"line\n");
            sink.flush(LONG);
        }

        assert_eq!(sink.dropped_lines(), 3);
        assert_eq!(sink.queued_bytes(), 0);
    }
}
