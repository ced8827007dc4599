"""What the benchmarks of single parts share: their own servers, their processes, their command line.

- `servers`: a Kafka broker and a schema registry, on free ports, in a temporary directory;
- `topics`: made afresh, and counted;
- `processes`: the cores, and what a measured program is told;
- `invocation`: options, and an end in order;
- `machine`: what the figures were measured on.
"""
