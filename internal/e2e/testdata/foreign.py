"""A producer of another code base: Confluent's Python client (librdkafka) and AvroSerializer.

usage: foreign.py BROKERS REGISTRY TOPIC COUNT

Makes the topic, writes COUNT events with an idempotent producer, then an aborted
and a committed transaction, and prints what clients must see: one line of JSON an event.
"""
import json
import sys
from decimal import Decimal

from confluent_kafka import Producer, SerializingProducer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, StringSerializer

SCHEMA = json.dumps({
    "type": "record", "name": "Order", "namespace": "foreign",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "side", "type": {"type": "enum", "name": "Side", "symbols": ["BUY", "SELL"]}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 3}},
        {"name": "legs", "type": {"type": "array", "items": {
            "type": "record", "name": "Leg", "fields": [{"name": "qty", "type": "int"}]}}},
        {"name": "tags", "type": {"type": "map", "values": "string"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
})


def order(i):
    return {
        "id": i if i % 7 else 2**53 + i,
        "note": None if i % 2 else f"n\u00f6te <{i}> \u2028",
        "side": "BUY" if i % 3 else "SELL",
        "price": Decimal(i) / 8 - 3,
        "legs": [{"qty": j - 1} for j in range(i % 4)],
        "tags": {"k": "v"} if i % 5 else {},
        "at": 1546383600078 + i,
    }


def seen(i):
    o = order(i)
    if o["id"] > 2**53:
        o["id"] = str(o["id"])
    o["price"] = f"{o['price']:.3f}"
    return {"key": f"K{i % 3}", "data": o}


def main():
    brokers, registry, topic, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    admin = AdminClient({"bootstrap.servers": brokers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    reg = SchemaRegistryClient({"url": registry})
    avro = AvroSerializer(reg, SCHEMA)

    # the serializer's own rounding of decimals: quantize to the schema's scale
    def value(i):
        o = order(i)
        o["price"] = o["price"].quantize(Decimal("0.001"))
        return o

    first = SerializingProducer({
        "bootstrap.servers": brokers, "enable.idempotence": True, "compression.type": "zstd", "linger.ms": 5,
        "key.serializer": StringSerializer(), "value.serializer": avro,
    })
    failures = []
    for i in range(count):
        first.produce(topic, key=f"K{i % 3}", value=value(i), on_delivery=lambda e, m: e and failures.append(e))
        first.poll(0)
    first.flush(60)
    if failures:
        sys.exit(f"not delivered: {failures[0]}")

    ctx = SerializationContext(topic, MessageField.VALUE)
    tx = Producer({"bootstrap.servers": brokers, "transactional.id": topic + "-tx", "compression.type": "lz4"})
    tx.init_transactions(30)
    for base, commit in ((count, False), (count, True), (count + 10, False), (count + 10, True)):
        tx.begin_transaction()
        for i in range(base, base + 10):
            tx.produce(topic, key=f"K{i % 3}", value=avro(value(i), ctx) if commit else b"\x00\x00\x00\x00\x00aborted")
        tx.flush(30)
        (tx.commit_transaction if commit else tx.abort_transaction)(30)
    for i in range(count + 20):
        print(json.dumps(seen(i)))


if __name__ == "__main__":
    main()
