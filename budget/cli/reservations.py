"""reservations: who holds what, and what to do about it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from budget.cli.common import Commands, Common, attributes_of, common
from budget.cli.output import Column, amount, note, print_json, say, scope_text, table, when
from budget.errors import ReservationConflict
from budget.limits import UNITS, Limit, name_model
from budget.money import format_usd
from budget.policy import read_name
from budget.pools import shown
from budget.subject import Subject
from budget.window import SECOND, at_zone

if TYPE_CHECKING:
    from budget.commands import Reservation
    from budget.engine import Budget


class _Holding(NamedTuple):
    """What a reservation holds in one pool. `limit` is the rule, or what is known of one that was unset."""

    identity: tuple[Any, ...]
    limit: str
    subject: Subject
    unit: str
    figure: int

    def to_dict(self) -> dict[str, Any]:
        figure = format_usd(self.figure) if self.unit == "usd" else self.figure
        return {"limit": self.limit, "subject": str(self.subject), "unit": self.unit, "amount": figure}

    def __str__(self) -> str:
        return f"{amount(shown(self.unit, self.figure))} of {self.limit} ({self.subject})"


@click.group("reservations", cls=Commands, default="list")
def reservations() -> None:
    """See who holds what, give it back, or charge what is due.

    \b
    Example:
      budget reservations user=alice
      budget reservations refund 01a2020f7f0dc89124baba59b9ecbc8d
      budget reservations sweep
    """


@reservations.command("list")
@click.argument("words", nargs=-1, metavar="[attr=value ...]")
@click.option("--limit", "rule", metavar="LIMIT", help="Only what is held in pools of this limit: 'per=user $5/day'.")
@common
def list_reservations(common: Common, words: tuple[str, ...], rule: str | None) -> None:
    """List the open reservations, the oldest first: what each holds in which pool, and until when.

    \b
    Example:
      budget reservations list user=alice
      budget reservations list --limit 'per=user $5/day' --json
    """
    with common.open() as budget:
        wanted = name_model(budget.settings.book, attributes_of(words))
        identity = None if rule is None else Limit(rule).named(budget.settings.book).identity
        found = budget.engine.store.reservations(budget.settings.account)
        holds = _holdings(budget, found)
    rows = [(known, holds[known.id]) for known in found if wanted.items() <= known.scope.items()]
    if identity is not None:
        rows = [(known, [each for each in some if each.identity == identity]) for known, some in rows]
        rows = [row for row in rows if row[1]]
    if common.json:
        print_json([_to_dict(*row) for row in rows])
        return
    now = time.time_ns() // 1000
    columns = [
        Column("id", shrink=True), Column("age", True), Column("lease ends", drop=1), Column("reserved", True),
        Column("scope", shrink=True), Column("holds", shrink=True, drop=2, least=40),
    ]  # fmt: skip
    table(columns, [
        (known.id, _age(now - known.made), when(at_zone(known.lease_end)), amount(known.usd),
         scope_text(known.scope) or "-", "; ".join(map(str, some)) or "-")
        for known, some in rows
    ])  # fmt: skip
    if not rows:
        note("nothing is reserved")


@reservations.command("refund")
@click.argument("id")
@click.option("--reason", metavar="TEXT", help="Why, for the ledger.")
@common
def refund(common: Common, id: str, reason: str | None) -> None:
    """Give a reservation back: its call was surely not billed. One that has expired is corrected.

    What the account above (above = "company" in budget.toml) has set aside for the call is given back, too.

    \b
    Example:
      budget reservations refund 01a2020f7f0dc89124baba59b9ecbc8d --reason 'the worker died before the call'
    """
    from budget.admin import actor
    from budget.arguments import known_reservation
    from budget.commands import Refund

    known_reservation(id)
    with common.open() as budget:
        command, above = Refund(id, actor(reason)), budget.engine.above
        outcome = budget.engine.do(command)
        done = outcome.reservation
        if done is None or not done.digest:  # the store has only noted that nothing may come under this id any more
            raise ReservationConflict(f"reservation {id}: there is none, or it ended too long ago")
        if outcome.status == "conflict":
            raise ReservationConflict(f"reservation {id} is already {done.state}")
        if above is not None:
            above.do(command)
    if common.json:
        print_json({"refunded": done.id, "usd": format_usd(done.amounts[0] or 0)})
    else:
        say(f"refunded: {amount(done.usd)}")


@reservations.command("sweep")
@common
def sweep(common: Common) -> None:
    """Charge the reservations whose lease has ended: what nobody reconciled is presumed spent.

    \b
    Example:
      budget reservations sweep
    """
    from budget.overview import sweep as expire_due

    with common.open() as budget:
        count = expire_due(budget.engine).count
    print_json({"expired": count}) if common.json else say(f"expired: {count}")
def _holdings(budget: Budget, found: Sequence[Reservation]) -> Mapping[str, list[_Holding]]:
    """Return what each reservation holds, by its id; pools of limits that are gone too."""
    from budget.overview import load_policy

    names = budget.engine.store.names(budget.settings.account) if found else {}
    texts = {limit.identity: limit.rule for limit in load_policy(budget.engine).limits} if found else {}
    pools = {pool: read_name(name) for pool, name in names.items()}
    return {
        known.id: [
            _Holding(identity, texts.get(identity, f"{identity[2]}/{identity[3]}"), subject, UNITS[share.unit],
                     share.amount)
            for share in known.shares if share.pool in pools for identity, subject in [pools[share.pool]]
        ]
        for known in found
    }  # fmt: skip


def _to_dict(known: Reservation, holds: list[_Holding]) -> dict[str, Any]:
    usd, tokens, input_tokens, output_tokens, requests = known.amounts
    return {
        "id": known.id,
        "made": at_zone(known.made).isoformat(),
        "lease_end": at_zone(known.lease_end).isoformat(),
        "usd": format_usd(usd or 0),
        "tokens": tokens,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "requests": requests,
        "scope": dict(known.scope),
        "parent": known.parent,
        "holds": [each.to_dict() for each in holds],
    }


def _age(us: int) -> str:
    seconds = max(0, us) // SECOND
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
