"""The Flink job: event-time windows over every topic `events.*`, and the events that came too late for theirs."""
