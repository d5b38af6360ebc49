import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's command-line tools one after the other in one JVM, because starting a JVM for each takes longer than the tools.
 *
 * <p>Each line of standard input is {"class": …, "args": […], "stdin": …}; each answer is {"status": …, "out": …} with standard
 * output and standard error together.
 */
public final class Tools {
    /** Ends a tool instead of the JVM. Some tools catch it and exit once more: the first status is the one they meant. */
    private static final class Exited extends RuntimeException {
        Exited(int status) {
            super("exit " + status);
        }
    }

    /** What a tool wants done at its end: the console producer flushes there. */
    private static final List<Runnable> HOOKS = new ArrayList<>();

    private static final AtomicReference<Integer> STATUS = new AtomicReference<>();

    public static void main(String[] ignored) throws Exception {
        Exit.Procedure exit = (status, message) -> {
            STATUS.compareAndSet(null, status);
            throw new Exited(status);
        };
        Exit.setExitProcedure(exit);
        Exit.setHaltProcedure(exit);
        Exit.setShutdownHookAdder((name, hook) -> HOOKS.add(hook));
        ObjectMapper json = new ObjectMapper();
        PrintStream answers = System.out;
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            int status = run(json.readTree(line), new PrintStream(out, true, StandardCharsets.UTF_8));
            answers.println(json.createObjectNode().put("status", status).put("out", out.toString(StandardCharsets.UTF_8)));
            answers.flush();
        }
    }

    private static int run(JsonNode call, PrintStream out) throws Exception {
        String[] args = new String[call.get("args").size()];
        for (int i = 0; i < args.length; i++) {
            args[i] = call.get("args").get(i).textValue();
        }
        System.setOut(out);
        System.setErr(out);
        System.setIn(new ByteArrayInputStream(call.path("stdin").asText().getBytes(StandardCharsets.UTF_8)));
        STATUS.set(null);
        try {
            Class.forName(call.get("class").textValue()).getMethod("main", String[].class).invoke(null, (Object) args);
        } catch (InvocationTargetException e) {
            if (STATUS.compareAndSet(null, 1)) {
                e.getCause().printStackTrace(out);
            }
        }
        HOOKS.forEach(Runnable::run);
        HOOKS.clear();
        return STATUS.get() == null ? 0 : STATUS.get();
    }
}
