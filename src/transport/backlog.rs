//! Streams of one connection that may have unread data.
//!
//! Such data is in the memory of this process rather than in the socket's buffer, as it is on a
//! connection that is not read; the reader of the connection needs to know.
//!
//! All streams of a connection are on one thread; the atomics are here because wakers are not bound
//! to one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Unread streams of one connection.
#[derive(Debug, Default)]
pub struct Backlog {
    unread: AtomicUsize,
    waiting: AtomicWaker,
    is_waited_for: AtomicBool,
}

/// A stream's share in the count. It counts from its beginning until its reader finds nothing more,
/// and again from the arrival of more, whether or not the reader wants it; never after it is
/// dropped.
#[derive(Debug)]
pub struct Unread {
    stream: Arc<BacklogStream>,
    /// Waker of `stream`.
    waker: Waker,
}

#[derive(Debug)]
struct BacklogStream {
    backlog: Arc<Backlog>,
    is_open: AtomicBool,
    is_counted: AtomicBool,
    reader: AtomicWaker,
}

impl Backlog {
    /// Returns `Ready` when the readers of all streams have read everything there is.
    ///
    /// Only the task that polled last is woken.
    pub fn poll_empty(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_empty() {
            return Poll::Ready(());
        }
        // Checked again after the registration: the last stream may have been read in between.
        self.waiting.register(context.waker());
        if self.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Records whether reading the connection waits for the backlog to empty.
    pub fn set_waited_for(&self, is_waited_for: bool) {
        self.is_waited_for.store(is_waited_for, Ordering::Release);
    }

    /// Returns whether reading the connection is suspended; nothing new from its client is seen
    /// then.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.is_waited_for.load(Ordering::Acquire)
    }

    /// Returns whether the readers of all streams have read everything there is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unread.load(Ordering::Acquire) == 0
    }
}

impl Unread {
    /// Registers a stream at its beginning.
    #[must_use]
    pub fn begin(backlog: &Arc<Backlog>) -> Self {
        let stream = Arc::new(BacklogStream {
            backlog: Arc::clone(backlog),
            is_open: AtomicBool::new(true),
            is_counted: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        });
        // Data behind the request may have arrived before its stream is read.
        stream.set(true);
        let waker = Arc::clone(&stream).into();
        Self { stream, waker }
    }

    /// Reads from the stream. A result for which `is_end` holds is the stream's last.
    pub fn poll<T>(
        &self,
        context: &Context<'_>,
        read: impl FnOnce(&mut Context<'_>) -> Poll<T>,
        is_end: impl FnOnce(&T) -> bool,
    ) -> Poll<T> {
        // `read` gets a waker of our own, which counts the stream before it wakes the reader.
        self.stream.reader.register(context.waker());
        let poll = read(&mut Context::from_waker(&self.waker));
        match &poll {
            Poll::Ready(read) if is_end(read) => self.stream.end(),
            // `Pending` means drained, until `waker` is woken.
            poll => self.stream.set(poll.is_ready()),
        }
        poll
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.stream.end();
    }
}

impl BacklogStream {
    fn set(&self, is_counted: bool) {
        let Backlog {
            unread, waiting, ..
        } = &*self.backlog;
        let was_counted = self.is_counted.swap(is_counted, Ordering::AcqRel);
        if is_counted && !was_counted {
            unread.fetch_add(1, Ordering::AcqRel);
        }
        // The last unread stream lets the connection be read again.
        if was_counted && !is_counted && unread.fetch_sub(1, Ordering::AcqRel) == 1 {
            waiting.wake();
        }
    }

    /// Stops counting the stream: whatever arrives from here on is discarded.
    fn end(&self) {
        self.is_open.store(false, Ordering::Release);
        self.set(false);
    }
}

impl Wake for BacklogStream {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Counted before the reader wakes up, so that the connection is not read in between.
        if self.is_open.load(Ordering::Acquire) {
            self.set(true);
        }
        self.reader.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Wakes {
        fn take(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    /// Reads from a stream with `outcome`; returns what is to be woken when more comes.
    fn read(stream: &Unread, context: &Context<'_>, outcome: Poll<&str>) -> Waker {
        let mut waker = None;
        let read = |context: &mut Context<'_>| {
            waker = Some(context.waker().clone());
            outcome
        };
        let _ = stream.poll(context, read, |read| *read == "end");
        waker.unwrap()
    }

    #[test]
    fn a_stream_counts_while_its_reader_may_have_data_left() {
        let readers = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&readers));
        let context = Context::from_waker(&waker);
        let backlog = Arc::<Backlog>::default();
        assert!(backlog.is_empty());
        let stream = Unread::begin(&backlog);
        assert!(!backlog.is_empty(), "it has begun");

        read(&stream, &context, Poll::Ready("more"));
        assert!(!backlog.is_empty(), "there may be more");
        let more = read(&stream, &context, Poll::Pending);
        assert!(backlog.is_empty(), "all is read");
        more.wake();
        assert_eq!((backlog.is_empty(), readers.take()), (false, 1));

        read(&stream, &context, Poll::Ready("end"));
        assert!(backlog.is_empty(), "it has ended");
        let more = read(&stream, &context, Poll::Pending);
        more.wake_by_ref();
        assert!(backlog.is_empty(), "it has ended");
        assert_eq!(readers.take(), 1);

        let stream = Unread::begin(&backlog);
        let more = read(&stream, &context, Poll::Ready("more"));
        drop(stream);
        more.wake();
        assert!(backlog.is_empty(), "it is gone");
    }

    #[test]
    fn waiters_are_woken_when_the_last_stream_is_read_or_gone() {
        let wakes = Arc::new(Wakes::default());
        let task = Waker::from(Arc::clone(&wakes));
        let context = Context::from_waker(&task);
        let backlog = Arc::<Backlog>::default();
        assert!(backlog.poll_empty(&context).is_ready());
        let (one, other) = (Unread::begin(&backlog), Unread::begin(&backlog));
        let idle = Context::from_waker(Waker::noop());

        assert!(backlog.poll_empty(&context).is_pending());
        read(&one, &idle, Poll::Pending);
        assert_eq!((backlog.is_empty(), wakes.take()), (false, 0));
        drop(other);
        assert_eq!((backlog.is_empty(), wakes.take()), (true, 1));
    }
}
