"""Writes one record the way a producer of another code base does.

usage: avro_client.py REGISTRY_URL SCHEMA_FILE; prints the value in hex.
"""
import sys

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

url, schema_file = sys.argv[1:]
schema = open(schema_file).read()
client = SchemaRegistryClient({"url": url})
context = SerializationContext("quotes", MessageField.VALUE)
quote = {"symbol": "EURUSD", "bid": 1.5, "ask": 1.75, "bid_size": 1, "ask_size": 2**60, "ts": 1546383600071000}

value = AvroSerializer(client, schema)(quote, context)
lookup_only = {"auto.register.schemas": False}
latest = {"auto.register.schemas": False, "use.latest.version": True}
assert AvroSerializer(client, schema, conf=lookup_only)(quote, context) == value
assert AvroSerializer(client, conf=latest)(quote, context) == value
assert AvroDeserializer(client)(value, context)["ask_size"] == 2**60

version = client.get_latest_version("quotes-value")
assert (version.subject, version.version) == ("quotes-value", 1)
assert client.lookup_schema("quotes-value", Schema(schema, "AVRO")).schema_id == version.schema_id
assert client.get_subjects() == ["quotes-value"]
assert client.get_versions("quotes-value") == [1]
assert client.get_compatibility() == "BACKWARD"
client.set_compatibility("quotes-value", "FULL")
assert client.get_compatibility("quotes-value") == "FULL"
assert not client.test_compatibility("quotes-value", Schema('"int"', "AVRO"))
for call, status, code in [
    (lambda: client.register_schema("quotes-value", Schema('"int"', "AVRO")), 409, 409),
    (lambda: client.register_schema("other", Schema('"nonsense"', "AVRO")), 422, 42201),
    (lambda: client.get_schema(999), 404, 40403),
    (lambda: client.get_latest_version("nobody"), 404, 40401),
    (lambda: client.get_version("quotes-value", 9), 404, 40402),
]:
    try:
        call()
        raise AssertionError("no error where %d was expected" % code)
    except SchemaRegistryError as e:
        assert (e.http_status_code, e.error_code) == (status, code), e
assert client.delete_subject("quotes-value") == [1]
assert client.delete_subject("quotes-value", permanent=True) == [1]

print(value.hex())
