"""`make bench-agents`: what the agents cost, each case beside its yardstick in the same run.

- `cases`: what is measured, against what, and what must be reached;
- `subjects`: the programs that are measured, each started as a process of its own;
- `topics`, `events`, `processes`: what they read, how they are run; what they stand on is in `deploy.local.bench`;
- `bench`: a case from its topics to its samples;
- `results`, `report`: medians, ratios, the table.
"""
