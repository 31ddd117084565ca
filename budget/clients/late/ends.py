"""How late answers end: the steps from what an answer said to the end of a reservation.

A background response says its usage itself. A batch says how many of its requests succeeded, and OpenAI's, in sum, what
they used: where the price of a request does not depend on its size that is enough. Else the results say it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from budget.asks import price
from budget.clients.late.links import Found, find, hold, settle
from budget.clients.late.results import Results
from budget.clients.meter import fields_of
from budget.commands import Amounts
from budget.config import Settings
from budget.errors import BudgetError
from budget.usage import Usage
from budget.verbs import Flow, Verbs

__all__ = ["PENDING", "batch_flow", "response_flow", "results_flow"]

PENDING = ("queued", "in_progress")
"""The states of a background response that is not done."""
_DONE = ("completed", "expired", "cancelled")
_AS_RESERVED: Amounts = (None, None, None, None, None)
_UNSAID: dict[str, Any] = {"outcome": "no usage", "estimated": True}
_log = logging.getLogger("budget")


def response_flow(verbs: Verbs, settings: Settings, sdk: str, name: str, answer: Mapping[str, Any]) -> Flow:
    """End a background response by its usage; without one it is charged as reserved. One that is not done goes on."""
    found: Found | None = yield from find(verbs, sdk, "response", name)
    if found is None or answer.get("status") in PENDING:
        return
    try:
        amounts, detail = price(settings, Usage.of(answer), None, None, found.main, 0)
    except BudgetError:
        amounts, detail = _AS_RESERVED, {**_UNSAID, "outcome": str(answer.get("status"))[:40]}
    yield from settle(verbs, sdk, found, amounts, detail)


def batch_flow(verbs: Verbs, settings: Settings, sdk: str, name: str, batch: Mapping[str, Any]) -> Flow:
    """End a batch of which nothing was done, or whose cost is said; else see to it that its results are known."""
    found: Found | None = yield from find(verbs, sdk, "batch", name)
    if found is None:
        return
    counts = fields_of(batch.get("request_counts"))
    if sdk == "anthropic":
        if batch.get("processing_status") == "ended" and counts.get("succeeded") == 0:
            yield from settle(verbs, sdk, found, None, {"batch": _counted(found, 0)})
        return
    status, file = batch.get("status"), batch.get("output_file_id")
    if status == "failed" or (status in _DONE and not file and not counts.get("completed")):
        yield from settle(verbs, sdk, found, None, {"batch": _counted(found, 0)})
    elif status in _DONE:
        results = _in_sum(settings, found, batch, counts.get("completed"))
        if results is not None:
            yield from results_flow(verbs, sdk, found, results)
        elif isinstance(file, str):
            yield from hold(verbs, found.main, sdk, "file", file, of=name)


def results_flow(verbs: Verbs, sdk: str, found: Found, results: Results) -> Flow:
    """End a batch by its results, which were read to their end."""
    asked = found.main.detail.get("batch", {}).get("requests")
    if sdk == "anthropic" and results.seen != asked:
        _log.warning("%d of a batch's %s results came; what it cost is not booked now", results.seen, asked)
        return
    amounts, detail = results.end() or (_AS_RESERVED, _UNSAID)
    yield from settle(verbs, sdk, found, amounts, {**detail, "batch": _counted(found, results.billed)})


def _in_sum(settings: Settings, found: Found, batch: Mapping[str, Any], completed: Any) -> Results | None:
    """Return what a batch of OpenAI's says it used in sum; None if it says nothing, or its sum has no one price."""
    if batch.get("usage") is None or not isinstance(completed, int) or not completed:
        return None
    results = Results(settings, found.main)
    try:
        usage = Usage.of({"usage": batch["usage"], "model": batch.get("model")})
        if not usage.tokens or not results.has_one_price(usage):
            return None
        results.add(usage)
    except BudgetError:
        return None
    results.seen = results.billed = completed
    return results


def _counted(found: Found, succeeded: int) -> dict[str, Any]:
    return {**found.main.detail.get("batch", {}), "succeeded": succeeded}
