"""What is to be said about one group: does the bill agree with the ledger, and if not, why.

Tokens and requests are compared as exact integers. Money may differ by what rounding explains: the ledger rounds each
call up to a nano-dollar, a report each line to a millionth of a dollar (`budget.bill.lines.Charged.off`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from budget.bill.sums import Billed, Figures, Ours

__all__ = ["FAULTS", "REASONS", "STATUSES", "Verdict", "judge", "judge_estimates", "sent_again"]

STATUSES = ("matched", "estimated", "open", "missing", "extra", "differs")
"""matched: the same; estimated: the bill lies within what calls without an answer were charged; open: it differs, and
the report of this day is not final; missing: in the ledger, not billed; extra: billed, not in the ledger; differs: both
have it, and not the same."""
FAULTS = frozenset(STATUSES[3:])
"""The statuses that are faults."""
REASONS = {
    "other_callers": "another caller: no call in the ledger has this key or model",
    "unrecorded": "our key and model, not in the ledger: another caller, or not guarded",
    "retries": "as much as calls of ours once more: sent again, and billed again",
    "not_billed": "charged here, and not billed",
    "estimated": "calls without an answer were charged an estimate",
    "cache": "the same tokens, but others of them fresh, read or written",
    "tier": "billed in another tier than was charged here",
    "price": "billed by other rates than the price book has",
    "book": "billed by the price book; the ledger was charged by other prices",
    "unpriced": "the price book has no price for the model",
    "tools": "charged for no model: tools, storage, other products",
    "midnight": "counted to the day before or after",
    "not_pulled": "the report that would have it was not pulled",
}
"""Why, as far as it can be told."""
_CHANCE = 20
"""A match of sums counts as evidence if chance alone has less than one in so many."""


class Verdict(NamedTuple):
    """A status and a reason, one of `STATUSES` and of `REASONS` or None; `note` has the particulars."""

    status: str
    reason: str | None = None
    note: str = ""

    @property
    def fault(self) -> bool:
        """Whether the bill and the ledger disagree."""
        return self.status in FAULTS


_MATCHED = Verdict("matched")


def judge(
    ours: Ours | None, billed: Billed | None, *, known: bool, inputs: Callable[[], Sequence[int]], complete: bool
) -> Verdict:
    """Compare tokens and requests.

    Args:
        ours: What the ledger has, or None.
        billed: What the reports of usage have, or None.
        known: Whether calls of ours have the model, and the key, at all.
        inputs: Gives the input tokens of each of our calls, to find those that were sent again; none if too many.
        complete: Whether all reports of usage were pulled.
    """
    if ours is None or not ours.calls:
        return Verdict("extra", "unrecorded" if known else "other_callers")
    if billed is None:
        return _unbilled(ours, complete)
    more = billed.tokens.minus(ours.tokens) if billed.counted else Figures()
    requests = None if billed.requests is None else billed.requests - ours.calls
    if not any(more):
        return _same_tokens(billed, requests)
    if ours.guessed and judge_estimates(ours, billed):
        return Verdict("estimated", "estimated", f"{ours.guessed} of {ours.calls} calls")
    return _differ(more, requests, inputs)


def judge_estimates(ours: Ours, billed: Billed) -> bool:
    """Whether the bill lies between what the answered calls used and that with the estimates of the others."""
    tokens = billed.tokens
    calls = ours.calls if billed.requests is None else billed.requests
    return (
        ours.tokens.input_tokens - ours.guessed_input <= tokens.input_tokens <= ours.tokens.input_tokens
        and ours.tokens.output - ours.guessed_output <= tokens.output <= ours.tokens.output
        and ours.calls - ours.guessed <= calls <= ours.calls
    )


def sent_again(more: int, requests: int | None, inputs: Sequence[int]) -> int | None:
    """Return how many calls, sent once more, would explain so many more input tokens; None if that is no evidence.

    Args:
        more: Input tokens above ours.
        requests: Requests above ours; None if nobody says.
        inputs: The input tokens of each call.
    """
    if not inputs or more <= 0:
        return None
    spread, count = max(inputs) - min(inputs) + 1, len(inputs)
    if requests in (None, 1) and more in inputs and count * _CHANCE <= spread:
        return 1
    pairs = count * (count + 1) // 2
    if requests in (None, 2) and pairs * _CHANCE <= 2 * spread:
        one = set(inputs)
        if any(more - tokens in one for tokens in one):
            return 2
    return None


def _same_tokens(billed: Billed, requests: int | None) -> Verdict:
    batch = any(tier == "batch" for tier, _ in billed.tiers)  # a batch may be one call here, and many requests there
    if not requests or batch or (requests < 0 and billed.counted):
        return _MATCHED
    if not billed.counted:
        return Verdict("extra", "unrecorded") if requests > 0 else Verdict("missing", "not_billed")
    return Verdict("extra", "retries", f"{requests} requests without tokens")


def _unbilled(ours: Ours, complete: bool) -> Verdict:
    if ours.guessed == ours.calls:
        return Verdict("estimated", "estimated")
    return Verdict("missing", "not_billed") if complete else Verdict("open", "not_pulled")


def _differ(more: Figures, requests: int | None, inputs: Callable[[], Sequence[int]]) -> Verdict:
    counts = (more.input_tokens, more.output, requests or 0)
    note = "" if not requests else f"{abs(requests)} requests"
    if not any(counts):
        return Verdict("differs", "cache")
    if max(counts) <= 0:
        return Verdict("missing", "not_billed", note)
    if min(counts) < 0:
        return Verdict("differs", None, "more of one kind of tokens, and less of another")
    again = sent_again(more.input_tokens, requests, inputs())
    if again is None:
        return Verdict("extra", "unrecorded", note)
    return Verdict("extra", "retries", "1 call" if again == 1 else f"{again} calls")
