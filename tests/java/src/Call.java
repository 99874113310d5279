import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.MetadataUtils;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicReference;

/**
 * A call of any kind as its client sees it, for code that waits: for the next answer, for room to
 * send. Answers are taken one at a time, so that nothing piles up here.
 */
final class Call<Q, A> implements ClientResponseObserver<Q, A> {
  private final BlockingQueue<Event<A>> events = new LinkedBlockingQueue<>();
  private final AtomicReference<Metadata> headers = new AtomicReference<>();
  private final AtomicReference<Metadata> trailers = new AtomicReference<>();
  private final boolean isOfMany;
  private ClientCallStreamObserver<Q> requests;
  private boolean isOver;

  private record Event<A>(A answer, Status end) {}

  private Call(boolean isOfMany) {
    this.isOfMany = isOfMany;
  }

  /** With one answer. */
  static <Q, A> Call<Q, A> ofOne() {
    return new Call<>(false);
  }

  /** With many. */
  static <Q, A> Call<Q, A> ofMany() {
    return new Call<>(true);
  }

  /** The channel to begin it on, so that its metadata can be seen here. */
  Channel on(Channel channel, Metadata metadata) {
    return ClientInterceptors.intercept(
        channel,
        MetadataUtils.newAttachHeadersInterceptor(metadata),
        MetadataUtils.newCaptureMetadataInterceptor(headers, trailers));
  }

  /** Null where an answer began with its trailers. */
  Metadata headers() {
    return headers.get();
  }

  Metadata trailers() {
    return trailers.get();
  }

  @Override
  public void beforeStart(ClientCallStreamObserver<Q> observer) {
    requests = observer;
    requests.setOnReadyHandler(this::wake);
    if (isOfMany) {
      requests.disableAutoRequestWithInitial(1);
    }
  }

  /** The next answer; null at the end. Throws the status if that is an error. */
  A next() throws InterruptedException {
    Event<A> event = events.take();
    if (event.end == null) {
      if (isOfMany) {
        requests.request(1);
      }
      return event.answer;
    }
    // Whoever asks again is told again.
    events.add(event);
    if (!event.end.isOk()) {
      throw new StatusRuntimeException(event.end, trailers.get());
    }
    return null;
  }

  /** The only answer. */
  A only() throws InterruptedException {
    List<A> answers = rest();
    Check.same(answers.size(), 1, "the number of answers");
    return answers.get(0);
  }

  /** All answers that are left. */
  List<A> rest() throws InterruptedException {
    List<A> answers = new ArrayList<>();
    for (A answer = next(); answer != null; answer = next()) {
      answers.add(answer);
    }
    return answers;
  }

  /** The error with which it must end. */
  StatusRuntimeException failure() throws InterruptedException {
    try {
      A answer = next();
      throw new AssertionError("the call did not fail, but gave " + answer);
    } catch (StatusRuntimeException error) {
      return error;
    }
  }

  /** Waits until there is room, and sends. False once the call is over. */
  boolean send(Q message) throws InterruptedException {
    synchronized (this) {
      while (!isOver && !requests.isReady()) {
        wait();
      }
      if (isOver) {
        return false;
      }
    }
    requests.onNext(message);
    return true;
  }

  Call<Q, A> sendAll(List<Q> messages) throws InterruptedException {
    for (Q message : messages) {
      send(message);
    }
    end();
    return this;
  }

  void end() {
    requests.onCompleted();
  }

  void cancel() {
    requests.cancel("given up by the client", null);
  }

  @Override
  public void onNext(A answer) {
    events.add(new Event<>(answer, null));
  }

  @Override
  public void onError(Throwable error) {
    finish(Status.fromThrowable(error));
  }

  @Override
  public void onCompleted() {
    finish(Status.OK);
  }

  private synchronized void finish(Status end) {
    isOver = true;
    events.add(new Event<>(null, end));
    wake();
  }

  private synchronized void wake() {
    notifyAll();
  }
}
