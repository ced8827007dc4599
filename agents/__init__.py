"""The agents: thin loops around domain functions. None ever loses an event by raising.

A Faust agent whose body raises acknowledges the event and forgets it, so every body here ends each record
in one of three ways: done, written to `platform.dlq` and confirmed, or tried again.
"""
