"""The programs that are measured, each a process of its own: `faust -A <module> worker`, or `python -m <module>`.

Those of the product register an agent of the product with the product's app, and nothing else.
"""
