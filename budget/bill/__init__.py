"""The bill: what the providers say was used and is owed, set against the ledger.

    lines       what a line of a bill is
    reports     where the providers' reports are, what may be asked, and how their lines are read
    fetch       page after page, with an admin key from the environment
    exported    the same from files
    billfile    what was pulled, in a file of its own beside the store; the ledger is never touched
    pull        from there into that file
    sums        both sides by day, model and key
    tariff      what the price book says that the bill's tokens cost
    verdict     whether the usage of a group agrees, and if not, why
    costs       the same for the money
    side        one provider's bill against the calls to it
    compare     all of it: `compare(...)` returns the typed `rows`

The ledger is what this process saw; the bill is what the provider saw. Neither is made to fit the other: what differs
is reported, with the reason where the figures show one. (`budget.audit` is something else: the proof that the ledger
and the counters agree.)
"""

from budget.bill.billfile import BillFile
from budget.bill.compare import compare
from budget.bill.fetch import BillUnavailable, Fetcher
from budget.bill.pull import load, pull
from budget.bill.reports import PROVIDERS
from budget.bill.rows import Comparison, Row
from budget.bill.verdict import REASONS, STATUSES

__all__ = [
    "PROVIDERS", "REASONS", "STATUSES", "BillFile", "BillUnavailable", "Comparison", "Fetcher", "Row", "compare",
    "load", "pull",
]  # fmt: skip
