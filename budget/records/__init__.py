"""Records: one per call, made from the entries of the ledger.

The ledger says what happened to the money, an entry per event. A record says what one call was: `record.py` is its
shape, and `changes.py` what the entries, read in order, do to the records. Everything that looks back (reports, sinks,
alerts) reads records, and none is written on the way of a call: the ledger is the one thing that a call waits for, and
the spool of all that reads it. `callfile.py` keeps the records of one account in columns, for questions: `reading.py`
brings what the ledger gained, `intake.py` puts it into rows and daily sums, `calldb.py` is the file, and `sums.py` says
how much fits into it. `erasing.py` and `moving.py` do for the file what `books` does for the ledger; `export.py` writes
closed days as Parquet, `analytics.py` asks them.
"""

from __future__ import annotations

from budget.records.callfile import CallFile
from budget.records.changes import Change, Corrected, Ended, Refused, Shadowed, Withdrawn, changes_of
from budget.records.record import Record, record_of

__all__ = [
    "CallFile", "Change", "Corrected", "Ended", "Record", "Refused", "Shadowed", "Withdrawn", "changes_of", "record_of",
]  # fmt: skip
