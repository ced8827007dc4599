"""`make bench`: what the gateway costs, each case beside its yardstick in the same run.

- `cases`: what is measured, against what, and what must be reached;
- `subjects`: the programs that are measured, each started as a process of its own;
- `requests`, `wrk`, `live_client`: what is sent, and who sends it;
- `bench`: a case from its topics to its samples;
- `results`, `report`: medians, verdicts, the table.
"""
