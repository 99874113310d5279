import java.time.Instant;
import java.util.ArrayList;
import java.util.EnumMap;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import sidelane.test.v1.EchoOuterClass.Moment;

/** What the server saw of the calls that named a key. */
final class Ledger {
  private final Map<String, Map<Moment, List<Visit>>> visits = new HashMap<>();
  private final List<Waiter> waiters = new ArrayList<>();

  /** One call. */
  static final class Visit {
    final String key;
    final long remainingMillis;
    final long arrived = unixNanos();
    private long ended;
    private boolean isOver;

    private Visit(String key, long remainingMillis) {
      this.key = key;
      this.remainingMillis = remainingMillis;
    }

    long at(Moment moment) {
      return moment == Moment.MOMENT_ARRIVED ? arrived : ended;
    }
  }

  private record Waiter(String key, Moment moment, int count, CompletableFuture<Visit> found) {}

  synchronized Visit arrive(String key, long remainingMillis) {
    Visit visit = new Visit(key, remainingMillis);
    note(visit, Moment.MOMENT_ARRIVED);
    return visit;
  }

  /** The first end counts. */
  synchronized void end(Visit visit, Moment how) {
    if (!visit.isOver) {
      visit.isOver = true;
      visit.ended = unixNanos();
      note(visit, how);
    }
  }

  /** Done as soon as so many calls have come so far. */
  synchronized CompletableFuture<Visit> reached(String key, Moment moment, int count) {
    Waiter waiter = new Waiter(key, moment, count, new CompletableFuture<>());
    if (!isDone(waiter)) {
      waiters.add(waiter);
    }
    return waiter.found;
  }

  synchronized int count(String key, Moment moment) {
    if (!key.isEmpty()) {
      return of(key, moment).size();
    }
    return visits.keySet().stream().mapToInt(one -> of(one, moment).size()).sum();
  }

  private void note(Visit visit, Moment moment) {
    of(visit.key, moment).add(visit);
    for (Iterator<Waiter> all = waiters.iterator(); all.hasNext(); ) {
      Waiter waiter = all.next();
      // Given up, or given what it waits for.
      if (waiter.found.isDone() || isDone(waiter)) {
        all.remove();
      }
    }
  }

  private boolean isDone(Waiter waiter) {
    List<Visit> found = of(waiter.key, waiter.moment);
    return found.size() >= waiter.count && waiter.found.complete(found.get(waiter.count - 1));
  }

  private List<Visit> of(String key, Moment moment) {
    return visits
        .computeIfAbsent(key, unknown -> new EnumMap<>(Moment.class))
        .computeIfAbsent(moment, none -> new ArrayList<>());
  }

  /** Now, by the clock that all processes of this machine share. */
  static long unixNanos() {
    Instant now = Instant.now();
    return now.getEpochSecond() * 1_000_000_000 + now.getNano();
  }
}
