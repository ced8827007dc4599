"""Kafka Connect and Snowflake: the sinks of the platform."""
