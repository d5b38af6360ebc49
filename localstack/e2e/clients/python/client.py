"""confluent-kafka (librdkafka) behind the suite's contract: see localstack/e2e/contract."""

import base64
import json
import sys
import threading
import uuid

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition

TIMEOUT = 30.0  # seconds, for each blocking call


def emit(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def encode(b):
    return None if b is None else base64.b64encode(b).decode()


def decode(s):
    return None if s is None else base64.b64decode(s)


def emit_record(message):
    headers = [{"key": k, "value": encode(v)} for k, v in message.headers() or []]
    emit(event="record", record={
        "partition": message.partition(), "offset": message.offset(), "key": encode(message.key()),
        "value": encode(message.value()), "headers": headers, "timestamp": message.timestamp()[1]})


def checked(message):
    if message.error():
        raise KafkaException(message.error())
    return message


def produce(bootstrap, topic, codec):
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 100,
                         "enable.idempotence": True})
    records = [json.loads(line) for line in sys.stdin]
    failures = []

    def delivered(seq):
        def report(error, message):
            if error is not None:
                failures.append(error)
                return
            emit(event="ack", seq=seq, partition=message.partition(), offset=message.offset())
        return report

    for r in records:
        headers = [(h["key"], decode(h["value"])) for h in r["headers"] or []]
        producer.produce(topic, value=decode(r["value"]), key=decode(r["key"]), partition=r["partition"],
                         timestamp=r["timestamp"], headers=headers, on_delivery=delivered(r["seq"]))
    if producer.flush(TIMEOUT) or failures:
        raise KafkaException(failures[0] if failures else KafkaError(KafkaError._TIMED_OUT))
    emit(event="produced", count=len(records))


def group(bootstrap, topic, name, assignor, limit, instance=None):
    limit = int(limit)
    static = {"group.instance.id": instance} if instance else {}
    consumer = Consumer({
        **static, "bootstrap.servers": bootstrap, "group.id": name, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "session.timeout.ms": 6000, "heartbeat.interval.ms": 300,
        "fetch.wait.max.ms": 100,
        "partition.assignment.strategy": "cooperative-sticky" if assignor == "cooperative" else "range"})
    owned, positions = set(), {}

    def commit(partitions):
        offsets = [TopicPartition(topic, p, positions.pop(p)) for p in list(positions) if p in partitions]
        if offsets:
            consumer.commit(offsets=offsets, asynchronous=False)

    def assigned(_, partitions):
        owned.update(p.partition for p in partitions)
        emit(event="assignment", partitions=sorted(owned))

    def revoked(_, partitions):
        gone = {p.partition for p in partitions}
        commit(gone)
        owned.difference_update(gone)
        emit(event="assignment", partitions=sorted(owned))

    def lost(_, partitions):
        gone = {p.partition for p in partitions}
        for p in gone:
            positions.pop(p, None)
        owned.difference_update(gone)
        emit(event="assignment", partitions=sorted(owned))

    leave = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), leave.set()), daemon=True).start()
    consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=lost)
    count = 0
    while not leave.is_set() and (limit == 0 or count < limit):
        message = consumer.poll(0.1)
        if message is None:
            continue
        emit_record(checked(message))
        positions[message.partition()] = message.offset() + 1
        count += 1
    commit(set(positions))
    consumer.close()
    emit(event="done")


def read(bootstrap, topic, millis):
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"read-{uuid.uuid4()}",
                         "enable.auto.commit": False, "enable.partition.eof": True, "fetch.wait.max.ms": 100})
    partitions = consumer.list_topics(topic, TIMEOUT).topics[topic].partitions
    found = consumer.offsets_for_times([TopicPartition(topic, p, int(millis)) for p in partitions], TIMEOUT)
    for tp in found:
        if tp.error:
            raise KafkaException(tp.error)
        emit(event="offset", partition=tp.partition, offset=-1 if tp.offset == OFFSET_END else tp.offset)
    consumer.assign(found)
    reading = set(partitions)
    while reading:
        message = consumer.poll(TIMEOUT)
        if message is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        if message.error() and message.error().code() == KafkaError._PARTITION_EOF:
            reading.discard(message.partition())
            continue
        emit_record(checked(message))
    consumer.close()
    emit(event="done")


if __name__ == "__main__":
    {"produce": produce, "group": group, "read": read}[sys.argv[2]](sys.argv[1], *sys.argv[3:])
