"""Topics with a schema of their own, in Avro, JSON Schema or Protobuf: checked, kept in the registry, applied to events.

In memory an event is always the same `Event`, with its payload as JSON text; here is what a topic asks of it beyond
the envelope, and how it is written to Kafka.
"""
