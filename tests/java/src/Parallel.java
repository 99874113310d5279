import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;

/** Work beside the rest of a case. */
final class Parallel {
  private final FutureTask<Void> task;

  /** What is done there. */
  interface Work {
    void run() throws Exception;
  }

  Parallel(Work work) {
    task =
        new FutureTask<>(
            () -> {
              work.run();
              return null;
            });
    Thread thread = new Thread(task);
    thread.setDaemon(true);
    thread.start();
  }

  /** Waits for its end. */
  void join() throws InterruptedException, ExecutionException {
    task.get();
  }
}
