import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's command-line tools one after the other in one JVM, because starting a JVM for each takes longer than the tools.
 *
 * <p>Each line of standard input is {"class": …, "args": […], "stdin": …}; each answer is {"status": …, "out": …} with standard
 * output and standard error together.
 */
public final class Tools {
    private static final class Exited extends RuntimeException {
        final int status;

        Exited(int status) {
            super("exit " + status);
            this.status = status;
        }
    }

    public static void main(String[] ignored) throws Exception {
        Exit.setExitProcedure((status, message) -> {
            throw new Exited(status);
        });
        Exit.setHaltProcedure((status, message) -> {
            throw new Exited(status);
        });
        Exit.setShutdownHookAdder((name, hook) -> { });
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
        try {
            Class.forName(call.get("class").textValue()).getMethod("main", String[].class).invoke(null, (Object) args);
            return 0;
        } catch (InvocationTargetException e) {
            return status(e.getCause(), out);
        }
    }

    /** The status a tool asked for; it may have wrapped our exception in its own on the way. */
    private static int status(Throwable thrown, PrintStream out) {
        for (Throwable t = thrown; t != null; t = t.getCause()) {
            if (t instanceof Exited exited) {
                return exited.status;
            }
        }
        thrown.printStackTrace(out);
        return 1;
    }
}
