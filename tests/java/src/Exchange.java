import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingQueue;

/**
 * A call as its server sees it, for code that waits: for the next message, for room to answer, and
 * never longer than the caller does. The code runs in a thread of its own, so that grpc-java's stay
 * free to tell of the end.
 */
final class Exchange<Q, A> implements StreamObserver<Q> {
  private static final long SETTLES_MILLIS = 100;
  private static final ExecutorService WORK = Executors.newCachedThreadPool();

  /** What a call does; what it throws is its status. */
  interface Work {
    void run() throws Throwable;
  }

  /** Done once nobody waits for the answer any more. */
  final CompletableFuture<Void> cancelled = new CompletableFuture<>();

  private final ServerCallStreamObserver<A> answers;
  private final BlockingQueue<Event<Q>> events = new LinkedBlockingQueue<>();

  private record Event<Q>(Q message) {}

  /** To be made within the method that grpc-java calls. */
  Exchange(StreamObserver<A> observer) {
    answers = (ServerCallStreamObserver<A>) observer;
    answers.setOnReadyHandler(this::wake);
    answers.setOnCancelHandler(
        () -> {
          cancelled.complete(null);
          events.add(new Event<>(null));
          wake();
        });
  }

  /** As above, where the caller sends many messages, of which one is taken at a time. */
  static <Q, A> Exchange<Q, A> ofStream(StreamObserver<A> observer) {
    Exchange<Q, A> exchange = new Exchange<>(observer);
    exchange.answers.disableAutoRequest();
    return exchange;
  }

  /** Does the work, and answers with its error if it has one. */
  Exchange<Q, A> with(Work work) {
    WORK.execute(
        () -> {
          try {
            work.run();
            answers.onCompleted();
          } catch (Throwable error) {
            answers.onError(error);
          }
        });
    return this;
  }

  /** The next message; null once the caller has ended its stream. */
  Q next() throws InterruptedException {
    answers.request(1);
    Q message = events.take().message;
    if (message == null) {
      settle();
      checkWanted();
    }
    return message;
  }

  /** Waits until there is room, and answers. */
  void write(A answer) throws InterruptedException {
    synchronized (this) {
      while (!answers.isReady() && !cancelled.isDone()) {
        wait();
      }
    }
    checkWanted();
    answers.onNext(answer);
  }

  /** A client that gives up a call may end its stream first, and reset it a moment later. */
  private void settle() throws InterruptedException {
    synchronized (this) {
      if (!cancelled.isDone()) {
        wait(SETTLES_MILLIS);
      }
    }
  }

  private void checkWanted() {
    if (cancelled.isDone()) {
      throw new CancellationException("the caller gave up");
    }
  }

  private synchronized void wake() {
    notifyAll();
  }

  @Override
  public void onNext(Q message) {
    events.add(new Event<>(message));
  }

  @Override
  public void onCompleted() {
    events.add(new Event<>(null));
  }

  /** The cancel handler tells of it. */
  @Override
  public void onError(Throwable error) {}
}
