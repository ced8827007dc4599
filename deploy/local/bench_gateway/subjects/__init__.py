"""The programs that are measured, each a process of its own: `faust -A <module> worker`, or `python -m <module>`."""
