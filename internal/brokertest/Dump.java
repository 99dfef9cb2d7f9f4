import java.io.BufferedOutputStream;
import java.io.DataOutputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Dumps the committed records of a topic with Kafka's own consumer, for tests:
 * what it says is the truth that clients' histories are held against.
 * Arguments: bootstrap addresses, topic. Standard output, big-endian: 'T' and
 * the topic id (16 bytes); for each partition 'P', number, first offset, last
 * stable offset; for each record 'R', partition, offset, timestamp, key and
 * value with their lengths (-1 = null); 'E' at the end. Nothing else goes there:
 * what prints to System.out, as Kafka's logger does, goes to standard error.
 */
public final class Dump {
    public static void main(String[] args) throws Exception {
        System.setOut(System.err); // before any logger takes it
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("isolation.level", "read_committed");
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "none");
        p.put("allow.auto.create.topics", "false");
        try (DataOutputStream out = new DataOutputStream(
                        new BufferedOutputStream(new FileOutputStream(FileDescriptor.out), 1 << 16));
                Admin admin = Admin.create(p);
                KafkaConsumer<byte[], byte[]> consumer =
                        new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            Uuid id = admin.describeTopics(List.of(args[1])).allTopicNames().get().get(args[1]).topicId();
            out.writeByte('T');
            out.writeLong(id.getMostSignificantBits());
            out.writeLong(id.getLeastSignificantBits());
            dump(consumer, args[1], out);
            out.writeByte('E');
        }
    }

    private static void dump(KafkaConsumer<byte[], byte[]> consumer, String topic, DataOutputStream out) throws IOException {
        List<TopicPartition> parts = new ArrayList<>();
        for (PartitionInfo i : consumer.partitionsFor(topic)) {
            parts.add(new TopicPartition(topic, i.partition()));
        }
        consumer.assign(parts);
        Map<TopicPartition, Long> starts = consumer.beginningOffsets(parts);
        Map<TopicPartition, Long> ends = consumer.endOffsets(parts); // last stable offsets
        for (TopicPartition tp : parts) {
            out.writeByte('P');
            out.writeInt(tp.partition());
            out.writeLong(starts.get(tp));
            out.writeLong(ends.get(tp));
            consumer.seek(tp, starts.get(tp));
        }
        while (parts.stream().anyMatch(tp -> consumer.position(tp) < ends.get(tp))) {
            for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(500))) {
                if (r.offset() >= ends.get(new TopicPartition(topic, r.partition()))) {
                    continue;
                }
                out.writeByte('R');
                out.writeInt(r.partition());
                out.writeLong(r.offset());
                out.writeLong(r.timestamp());
                bytes(out, r.key());
                bytes(out, r.value());
            }
        }
    }

    private static void bytes(DataOutputStream out, byte[] b) throws IOException {
        out.writeInt(b == null ? -1 : b.length);
        if (b != null) {
            out.write(b);
        }
    }
}
