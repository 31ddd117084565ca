"""Questions: what was spent, on what, where it is going, and what would have held it.

`questions.py` is the door: `Questions` asks the file of records (`budget.records.CallFile`), each question at one
instant of it. `asking.py` turns what is grouped, of which calls, in which time into SQL; the others answer: `costs.py`
(costs in groups), `requests.py` (single calls, and the rate per hour), `cache.py`, `refused.py`, `outlook.py` and
`suggest.py`. `estimates.py` reads the entries of the ledger themselves (`calls.py`), where the estimates are.
Sums are exact integers, and a quantile is one of the values that there are (nearest rank), never one between two.
"""

from __future__ import annotations

from budget.report.cache import CacheRow
from budget.report.estimates import EstimateRow, report_estimates
from budget.report.outlook import OutlookRow
from budget.report.questions import Questions
from budget.report.refused import RefusalRow
from budget.report.requests import CallRow, RateRow
from budget.report.rows import Row, Rows
from budget.report.suggest import Suggestion

__all__ = [
    "CacheRow", "CallRow", "EstimateRow", "OutlookRow", "Questions", "RateRow", "RefusalRow", "Row", "Rows",
    "Suggestion", "report_estimates",
]  # fmt: skip
