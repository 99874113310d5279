import java.util.Arrays;
import java.util.List;
import java.util.Objects;

/** What a case says of what it got. */
final class Check {
  static final int TIMES = 20;
  static final double LIMIT_MILLIS = 50;

  private Check() {}

  static void holds(boolean condition, String what) {
    if (!condition) {
      throw new AssertionError(what);
    }
  }

  static void same(Object given, Object wanted, String what) {
    if (!Objects.equals(given, wanted)) {
      throw new AssertionError(what + " is " + shown(given) + ", not " + shown(wanted));
    }
  }

  static void sameBytes(List<byte[]> given, List<byte[]> wanted, String what) {
    boolean same = given.size() == wanted.size();
    for (int index = 0; same && index < wanted.size(); index++) {
      same = Arrays.equals(given.get(index), wanted.get(index));
    }
    String text = given.stream().map(Arrays::toString).toList().toString();
    holds(same, what + " is " + shown(text));
  }

  /** The middle one is soon enough; single ones may be late when the machine is busy. */
  static void soon(List<Double> milliseconds) {
    double[] sorted = milliseconds.stream().mapToDouble(Double::doubleValue).sorted().toArray();
    double median = sorted[sorted.length / 2];
    holds(median < LIMIT_MILLIS, "median " + median + " ms of " + milliseconds);
  }

  private static String shown(Object value) {
    String text = String.valueOf(value);
    return text.length() > 1000 ? text.substring(0, 1000) : text;
  }
}
