//! A connection that takes turns. All connections share one thread, and one that always has
//! something to read or to write could hold it for many milliseconds; here it moves so many bytes
//! and then lets the others go first. Its bytes are counted on the way.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::telemetry::LaneCounters;

/// A byte stream whose reads and writes come in turns.
#[derive(Debug)]
pub struct Turns<Stream> {
    stream: Stream,
    turn: usize,
    read: usize,
    written: usize,
    counters: Option<Arc<LaneCounters>>,
    intake: Option<Arc<Intake>>,
}

/// What the reader of a connection knows of those who take what it brought. HTTP/2 reads on whenever
/// it is asked for the next call; so long as there are calls that nobody has taken yet, the reader
/// brings no more than one turn of them, however fast they are made and given up.
#[derive(Debug, Default)]
pub struct Intake {
    /// All that was brought is taken.
    empty: AtomicBool,
    /// There is more to bring than was let in.
    held: AtomicBool,
}

impl Intake {
    /// Says that all was taken. True where more is there, and whoever asks must come again for it.
    #[must_use]
    pub fn emptied(&self) -> bool {
        self.empty.store(true, Ordering::Relaxed);
        self.held.load(Ordering::Relaxed) && self.held.swap(false, Ordering::Relaxed)
    }
}

impl<Stream> Turns<Stream> {
    /// Moves at most `turn` bytes each way (and what one more read or write brings) at a time.
    pub fn new(stream: Stream, turn: usize, counters: Option<Arc<LaneCounters>>) -> Self {
        Self {
            stream,
            turn,
            read: 0,
            written: 0,
            counters,
            intake: None,
        }
    }

    /// The same for a connection that brings calls: what it reads counts until they were taken.
    #[must_use]
    pub fn bringing(mut self, intake: Arc<Intake>) -> Self {
        self.intake = Some(intake);
        self
    }

    /// Is there no room to read before others had their turn?
    fn read_turn_is_over(&mut self, context: &mut Context<'_>) -> bool {
        let over = self.read >= self.turn;
        let Some(intake) = &self.intake else {
            if over {
                self.read = 0;
                give_way(context);
            }
            return over;
        };
        if intake.empty.load(Ordering::Relaxed) {
            intake.empty.store(false, Ordering::Relaxed);
            self.read = 0;
            return false;
        }
        if over {
            intake.held.store(true, Ordering::Relaxed);
        }
        over
    }

    /// Takes down what was written; a socket that takes nothing ends the turn.
    fn wrote(&mut self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.written += bytes;
                if let Some(counters) = &self.counters {
                    counters.sent(*bytes);
                }
            }
            _ => self.written = 0,
        }
    }

    fn write_turn_is_over(&mut self, context: &mut Context<'_>) -> bool {
        let over = self.written >= self.turn;
        if over {
            self.written = 0;
            give_way(context);
        }
        over
    }
}

/// Lets everybody else go first: the task is woken once all that are ready have run and the sockets
/// were asked for news. Waking it here would put it before those that have news.
pub fn give_way(context: &mut Context<'_>) {
    // The first poll only says that it will wake, and is all there is to it.
    let _ = pin!(tokio::task::yield_now()).poll(context);
}

impl<Stream: AsyncRead + Unpin> AsyncRead for Turns<Stream> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_turn_is_over(context) {
            return Poll::Pending;
        }
        let before = into.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, into);
        if result.is_ready() {
            let bytes = into.filled().len() - before;
            self.read += bytes;
            if let Some(counters) = &self.counters {
                counters.received(bytes);
            }
        } else if self.intake.is_none() {
            self.read = 0;
        }
        result
    }
}

impl<Stream: AsyncWrite + Unpin> AsyncWrite for Turns<Stream> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.write_turn_is_over(context) {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.write_turn_is_over(context) {
            return Poll::Pending;
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use sidelane_proto::model::{ConnectionClass, Lane};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::telemetry::{Metrics, Side};

    const TURN: usize = 1024;
    const WHOLE: usize = 16 * TURN;

    /// A stream that always takes and gives at once, as a socket that is never empty or full.
    struct Endless;

    impl AsyncRead for Endless {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            into.put_slice(&[7; TURN / 4]);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len().min(TURN / 4)))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Runs `bulk` beside a task that only counts how often it is its turn until bulk is done.
    async fn turns_of_another(bulk: impl Future<Output = ()> + 'static) -> usize {
        let (done, turns) = (Rc::new(RefCell::new(false)), Rc::new(RefCell::new(0)));
        let tasks = LocalSet::new();
        let (over, seen) = (Rc::clone(&done), Rc::clone(&turns));
        tasks.spawn_local(async move {
            bulk.await;
            *over.borrow_mut() = true;
        });
        tasks.spawn_local(async move {
            while !*done.borrow() {
                *seen.borrow_mut() += 1;
                tokio::task::yield_now().await;
            }
        });
        tasks.await;
        turns.take()
    }

    #[tokio::test]
    async fn a_reader_that_always_finds_something_lets_others_run() {
        let turns = turns_of_another(async {
            let mut stream = Turns::new(Endless, TURN, None);
            stream.read_exact(&mut vec![0; WHOLE]).await.unwrap();
        });
        assert!(turns.await >= WHOLE / TURN - 1);
    }

    #[tokio::test]
    async fn calls_that_nobody_takes_are_followed_by_no_more_than_a_turn() {
        let intake = Arc::new(Intake::default());
        let mut stream = Turns::new(Endless, TURN, None).bringing(Arc::clone(&intake));
        let mut read = async |most: usize| {
            let mut read = 0;
            while read < most {
                let mut piece = [0; TURN];
                let mut piece = ReadBuf::new(&mut piece);
                let turn = std::future::poll_fn(|context| {
                    Poll::Ready(Pin::new(&mut stream).poll_read(context, &mut piece))
                });
                if turn.await.is_pending() {
                    break;
                }
                read += piece.filled().len();
            }
            read
        };
        // Nothing is taken, however often it is asked.
        assert_eq!(read(WHOLE).await, TURN);
        assert_eq!(read(WHOLE).await, 0);
        // What was taken makes room for the next turn, and it is said that there is one.
        assert!(intake.emptied());
        assert_eq!(read(TURN / 2).await, TURN / 2);
        assert!(!intake.emptied());
        assert_eq!(read(WHOLE).await, TURN);
    }

    #[tokio::test]
    async fn so_does_a_writer() {
        let turns = turns_of_another(async {
            let mut stream = Turns::new(Endless, TURN, None);
            stream.write_all(&vec![0; WHOLE]).await.unwrap();
        });
        assert!(turns.await >= WHOLE / TURN - 1);
    }

    #[tokio::test]
    async fn who_has_news_goes_before_whoever_gave_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, (far, _)) = (near.await.unwrap(), listener.accept().await.unwrap());
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks = LocalSet::new();
        let (heard, moved) = (Rc::clone(&order), Rc::clone(&order));
        tasks
            .run_until(async move {
                let heartbeat = spawn_local(async move {
                    let mut far = far;
                    far.read_exact(&mut [0]).await.unwrap();
                    heard.borrow_mut().push("heartbeat");
                });
                tokio::task::yield_now().await;
                let bulk = spawn_local(async move {
                    let mut stream = Turns::new(Endless, TURN, None);
                    stream.write_all(&[0; TURN]).await.unwrap();
                    // Arrives while bulk still has more to say.
                    near.try_write(&[1]).unwrap();
                    stream.write_all(&[0; WHOLE]).await.unwrap();
                    moved.borrow_mut().push("bulk");
                });
                heartbeat.await.unwrap();
                bulk.await.unwrap();
            })
            .await;
        assert_eq!(*order.borrow(), ["heartbeat", "bulk"]);
    }

    #[tokio::test]
    async fn all_bytes_arrive_and_are_counted() {
        let metrics = Metrics::default();
        let counters = metrics.lane(ConnectionClass::Internal, Lane::GOSSIP, Side::Dialled);
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Turns::new(near, TURN, Some(counters));
        let sent: Vec<u8> = (0..WHOLE)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        let mut received = vec![0; WHOLE];
        let ((), ()) = tokio::join!(async { near.write_all(&sent).await.unwrap() }, async {
            far.read_exact(&mut received).await.map(drop).unwrap();
        });
        assert_eq!(received, sent);
        far.write_all(b"answer").await.unwrap();
        near.read_exact(&mut [0; 6]).await.unwrap();
        let text = metrics.render();
        let labels = "connection=\"Internal\",lane=\"gossip\",side=\"dialled\"";
        for (direction, bytes) in [("sent", WHOLE), ("received", 6)] {
            let line = format!(
                "sidelane_lane_bytes_total{{{labels},direction=\"{direction}\"}} {bytes}\n"
            );
            assert!(text.contains(&line), "{line}{text}");
        }
    }
}
