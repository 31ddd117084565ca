"""Late answers: batches and background responses, whose cost is known long after they were begun.

The provider answers a submission with an id, and what the work has used comes with a later GET, perhaps in another
process. So the reservation of a submission is not ended by its answer but kept open under the provider's id (`links`),
and ended by the answer that brings the usage, when that passes through a wrapped client (`watching`). Nothing is asked
of the provider that the user did not ask. What nobody collects is charged when its lease ends, as every reservation is.

`calls` are the submissions; `batches` is what all requests of a batch can cost together and `results` what they did.
"""

from __future__ import annotations

from budget.clients.late.calls import make_call
from budget.clients.late.watching import awatch, watch

__all__ = ["awatch", "make_call", "watch"]
