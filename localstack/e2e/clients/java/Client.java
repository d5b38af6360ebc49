import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Apache's own Java client behind the suite's contract: see localstack/e2e/contract. */
public final class Client {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final PrintStream OUT = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    private static final Duration POLL = Duration.ofMillis(100);

    public static void main(String[] args) throws Exception {
        switch (args[1]) {
            case "produce" -> produce(args[0], args[2], args[3]);
            case "group" -> group(args[0], args[2], args[3], args[4], Integer.parseInt(args[5]),
                    args.length > 6 ? Map.of("group.instance.id", args[6]) : Map.of());
            case "read" -> read(args[0], args[2], Long.parseLong(args[3]));
            default -> throw new IllegalArgumentException("unknown command " + args[1]);
        }
    }

    static synchronized void emit(ObjectNode event) {
        OUT.println(event.toString());
        OUT.flush();
    }

    static ObjectNode event(String name) {
        return JSON.createObjectNode().put("event", name);
    }

    static byte[] bytes(JsonNode n) throws IOException {
        return n == null || n.isNull() ? null : n.binaryValue();
    }

    static void emitRecord(ConsumerRecord<byte[], byte[]> r) {
        ObjectNode event = event("record");
        ObjectNode out = event.putObject("record").put("partition", r.partition()).put("offset", r.offset())
                .put("key", r.key()).put("value", r.value()).put("timestamp", r.timestamp());
        ArrayNode headers = out.putArray("headers");
        for (Header h : r.headers()) {
            headers.addObject().put("key", h.key()).put("value", h.value());
        }
        emit(event);
    }

    static void produce(String bootstrap, String topic, String codec) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("compression.type", codec);
        p.put("linger.ms", "100");
        p.put("acks", "all");
        List<Integer> sequence = new ArrayList<>();
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (var producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                JsonNode r = JSON.readTree(line);
                sequence.add(r.get("seq").intValue());
                sent.add(producer.send(new ProducerRecord<>(topic, r.get("partition").intValue(), r.get("timestamp").longValue(),
                        bytes(r.get("key")), bytes(r.get("value")), headers(r.get("headers")))));
            }
            producer.flush();
        }
        for (int i = 0; i < sent.size(); i++) {
            RecordMetadata m = sent.get(i).get();
            emit(event("ack").put("seq", sequence.get(i)).put("partition", m.partition()).put("offset", m.offset()));
        }
        emit(event("produced").put("count", sent.size()));
    }

    static List<Header> headers(JsonNode list) throws IOException {
        List<Header> out = new ArrayList<>();
        for (JsonNode h : list) {
            out.add(new RecordHeader(h.get("key").textValue(), bytes(h.get("value"))));
        }
        return out;
    }

    static KafkaConsumer<byte[], byte[]> consumer(String bootstrap, Map<String, String> more) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("enable.auto.commit", "false");
        p.put("fetch.max.wait.ms", "100");
        p.putAll(more);
        return new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    static void group(String bootstrap, String topic, String group, String assignor, int limit,
            Map<String, String> instance) {
        String strategy = assignor.equals("cooperative") ? "CooperativeStickyAssignor" : "RangeAssignor";
        Map<String, String> config = new HashMap<>(instance);
        config.putAll(Map.of("group.id", group, "auto.offset.reset", "earliest",
                "session.timeout.ms", "6000", "heartbeat.interval.ms", "300",
                "partition.assignment.strategy", "org.apache.kafka.clients.consumer." + strategy));
        try (var consumer = consumer(bootstrap, config)) {
            new Member(topic, consumer).run(limit);
        }
        emit(event("done"));
    }

    /** One member of a group; all but the watch on standard input happens in the thread that polls. */
    private static final class Member implements ConsumerRebalanceListener {
        private final String topic;
        private final TreeSet<Integer> owned = new TreeSet<>();
        private final Map<TopicPartition, OffsetAndMetadata> positions = new HashMap<>();
        private final KafkaConsumer<byte[], byte[]> consumer;

        Member(String topic, KafkaConsumer<byte[], byte[]> consumer) {
            this.topic = topic;
            this.consumer = consumer;
        }

        void run(int limit) {
            Thread ended = new Thread(Member::awaitEndOfInput);
            ended.setDaemon(true);
            ended.start();
            consumer.subscribe(List.of(topic), this);
            int count = 0;
            while (ended.isAlive() && (limit == 0 || count < limit)) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(POLL)) {
                    if (limit > 0 && count == limit) {
                        break; // polled but not printed: not committed either
                    }
                    emitRecord(r);
                    positions.put(new TopicPartition(topic, r.partition()), new OffsetAndMetadata(r.offset() + 1));
                    count++;
                }
            }
            consumer.commitSync(positions);
            positions.clear();
        }

        private static void awaitEndOfInput() {
            try {
                System.in.transferTo(java.io.OutputStream.nullOutputStream());
            } catch (IOException e) {
                System.err.println("standard input: " + e);
            }
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            partitions.forEach(p -> owned.add(p.partition()));
            emitAssignment();
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            Map<TopicPartition, OffsetAndMetadata> ready = new HashMap<>(positions);
            ready.keySet().retainAll(partitions);
            consumer.commitSync(ready);
            onPartitionsLost(partitions);
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            positions.keySet().removeAll(partitions);
            partitions.forEach(p -> owned.remove(p.partition()));
            emitAssignment();
        }

        private void emitAssignment() {
            ObjectNode event = event("assignment");
            ArrayNode list = event.putArray("partitions");
            owned.forEach(list::add);
            emit(event);
        }
    }

    static void read(String bootstrap, String topic, long millis) {
        try (var consumer = consumer(bootstrap, Map.of("auto.offset.reset", "none"))) {
            Map<TopicPartition, Long> query = new HashMap<>();
            for (PartitionInfo p : consumer.partitionsFor(topic)) {
                query.put(new TopicPartition(topic, p.partition()), millis);
            }
            Map<TopicPartition, OffsetAndTimestamp> starts = consumer.offsetsForTimes(query);
            Map<TopicPartition, Long> left = new HashMap<>(consumer.endOffsets(query.keySet()));
            consumer.assign(query.keySet());
            for (TopicPartition p : query.keySet()) {
                OffsetAndTimestamp at = starts.get(p);
                long start = at == null ? left.get(p) : at.offset();
                emit(event("offset").put("partition", p.partition()).put("offset", start));
                consumer.seek(p, start);
                left.computeIfPresent(p, (k, end) -> start < end ? end : null);
            }
            while (!left.isEmpty()) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(POLL)) {
                    emitRecord(r);
                    left.computeIfPresent(new TopicPartition(topic, r.partition()), (k, end) -> r.offset() + 1 < end ? end : null);
                }
            }
        }
        emit(event("done"));
    }
}
