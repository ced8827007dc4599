"""`make bench-agents`: what the agents cost, each case beside its yardstick in the same run.

- `cases`: what is measured, against what, and what must be reached;
- `subjects`: the programs that are measured, each started as a process of its own;
- `servers`, `topics`, `events`, `processes`: what they stand on, what they read, how they are run;
- `bench`: a case from its topics to its samples;
- `results`, `report`: medians, ratios, the table.
"""
