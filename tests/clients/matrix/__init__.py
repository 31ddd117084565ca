"""The matrix: every API, sync and async, every way to make a call, every way for it to end.

`ways.py` has how a call is made, `faults.py` how it ends and what it must cost by the table of outcomes, `world.py`
carries out one cell against the provider on loopback and holds three accounts of it against one another: the provider's
own log, the ledger, and the pools. `python -m tests.clients.matrix` prints the table.
"""
