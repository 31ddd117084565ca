"""Warnings that come from the ledger: once per rule, subject and window, over all processes of a host.

`alerts.py` reads the ledger as a sink does (`budget.sinks`), so that nothing is missed while no process runs, and shows
what it finds to the rules: `pools.py` (limits), `amounts.py`, `cache.py`, `drift.py`, `prices.py`, `trouble.py`. What
they add up and whom they have warned of is in `file.py`, beside the store; `telling.py` hands warnings to the
`channels.py` until each has taken them. Rules are text:

    limit at 50% 75% 90% 100%       a share of a limit is spent, or it refuses (100 %)
    burn > 3x                       a limit is spent at so many times the pace that it can bear
    exhausted before reset          at its present pace a limit will not last
    session > $5 in 10m             a session, user, agent, run, model or tag is above an amount within minutes
    user hour > 5x usual over $1    a user's hour is so many times their usual one; a new user's, the median user's
    request > 10x mean over $0.10   a request is so many times the mean of its agent and model
    cache < 60% in 1h               little of the input comes from the prompt cache, where one is used
    drift in 1d                     what calls cost is distributed otherwise than in the seven days before
    unpriced                        a model without a price was refused, or counted as free
    stale prices                    prices should have been looked at again
    store trouble                   the ledger cannot be read, or ends of calls wait for the store
    default                         those of them that need no figure

Unlike `Budget(on_warning=)`, which is called in the process whose reserve takes a pool to a share of its limit, at once
and once per process, these are told once for all processes, a second or two later, and survive them. Of several hosts
on one server, the one with the records store (`records=`) tells.
"""

from __future__ import annotations

from budget.alerts.alert import Alert
from budget.alerts.alerts import Alerts
from budget.alerts.channels import Channel, make_channel
from budget.alerts.rule import Rule
from budget.alerts.rules import DEFAULT, KINDS, make_rule

__all__ = ["DEFAULT", "KINDS", "Alert", "Alerts", "Channel", "Rule", "make_channel", "make_rule"]
