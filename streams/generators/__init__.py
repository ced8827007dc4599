"""Synthetic events with a known truth: IoT, clickstream and transactions, valid, invalid, late and duplicate.

What is sent is a pure function of the options and the start time (`plan`); how it is sent is apart
(`http_sink`, `ingress_sink`, `run`). The totals say what the platform must hold afterwards.
"""
