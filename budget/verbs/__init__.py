"""The steps of each verb, written once for sync and async.

A verb is a generator, a `Flow`: it yields commands for the store, receives their outcomes, and returns the answer.
Everything between two commands is pure computing; the engine drives the generator, blocking or awaiting. So the twins
cannot differ.

The life of a reserve: arguments -> estimate and price -> scope and runs -> policy -> draws -> one command. If the store
answers that the policy or the window is not the present one, nothing was written; the steps are taken again.

`Verbs` are those of one engine. They share the policy last loaded, the line of those who wait and what was learned, so
they are one object; its class is made in steps, each of which builds on the one before:

    applies    what applies to a call: the policy, freezes and guards, the runs that the call is in
    answers    what the store has answered, and who else is told of it: runs, those who wait, who is to be warned
    checks     before a call: what is expected of it, and whether it would be admitted (`check`)
    reserves   `reserve`
    verbs      `Verbs`, with what calls have cost: `reconcile`, `refund`, `record`
"""

from budget.verbs.applies import MOST_LIMITS, Flow
from budget.verbs.checks import Decision
from budget.verbs.reserves import Patience
from budget.verbs.verbs import Verbs

__all__ = ["MOST_LIMITS", "Decision", "Flow", "Patience", "Verbs"]
