import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Deadline;
import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** What stands around the messages of a call: its metadata, its deadline, its compression. */
final class Around {
  private static final Context.Key<Around> KEY = Context.key("around");
  private static final String ECHOED_PREFIX = "x-test-";
  private static final Metadata.Key<String> COMPRESS = text("x-test-compress");

  private final Metadata received;
  private volatile Metadata echoed = new Metadata();

  private Around(Metadata received) {
    this.received = received;
  }

  /** What stands around the call in whose method this is asked. */
  static Around thisCall() {
    return KEY.get();
  }

  static Metadata.Key<String> text(String name) {
    return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
  }

  static Metadata.Key<byte[]> bytes(String name) {
    return Metadata.Key.of(name, Metadata.BINARY_BYTE_MARSHALLER);
  }

  /** How long the caller waits, in milliseconds; -1 without a deadline. */
  static long remainingMillis() {
    Deadline deadline = Context.current().getDeadline();
    return deadline == null ? -1 : Math.max(0, deadline.timeRemaining(TimeUnit.MILLISECONDS));
  }

  /** The tests' own metadata goes back in the answer's headers and in its trailers. */
  Metadata echo() {
    Metadata own = new Metadata();
    for (String name : received.keys()) {
      if (name.startsWith(ECHOED_PREFIX)) {
        if (name.endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
          received.getAll(bytes(name)).forEach(value -> own.put(bytes(name), value));
        } else {
          received.getAll(text(name)).forEach(value -> own.put(text(name), value));
        }
      }
    }
    echoed = own;
    return own;
  }

  /** {@code name: value} for each, `-bin` values in padded base64, the order within a name kept. */
  List<String> lines() {
    List<String> lines = new ArrayList<>();
    for (String name : received.keys()) {
      if (name.endsWith(Metadata.BINARY_HEADER_SUFFIX)) {
        Base64.Encoder base64 = Base64.getEncoder();
        received
            .getAll(bytes(name))
            .forEach(value -> lines.add(name + ": " + base64.encodeToString(value)));
      } else {
        received.getAll(text(name)).forEach(value -> lines.add(name + ": " + value));
      }
    }
    return lines;
  }

  /** Notes what came, and puts what is to go back on its way. */
  static final class Interceptor implements ServerInterceptor {
    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
        ServerCall<Q, A> call, Metadata received, ServerCallHandler<Q, A> next) {
      Around around = new Around(received);
      if (received.containsKey(COMPRESS)) {
        call.setCompression("gzip");
      }
      ServerCall<Q, A> echoing =
          new SimpleForwardingServerCall<>(call) {
            @Override
            public void sendHeaders(Metadata headers) {
              headers.merge(around.echoed);
              super.sendHeaders(headers);
            }

            @Override
            public void close(Status status, Metadata trailers) {
              // An error brings its own.
              if (status.isOk()) {
                trailers.merge(around.echoed);
              }
              super.close(status, trailers);
            }
          };
      Context context = Context.current().withValue(KEY, around);
      return Contexts.interceptCall(context, echoing, received, next);
    }
  }
}
