"""Everything that touches a Kafka client; nothing above knows which client that is."""
