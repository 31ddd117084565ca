"""Every store gives the same answers as every other one, and as a model that shares no code with them.

The machine makes commands, hands each with the same `now` to all stores and to the model, and compares each outcome; at
the end it compares all counters and entries, and audits the ledgers. Some commands go in groups, which the SQLite store
carries out in one transaction over what it has cached.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import STORES, books
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from budget.commands import (
    Amounts,
    ChangePolicy,
    Command,
    Draw,
    Outcome,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reserve,
    Status,
    Sweep,
)
from budget.money import MAX
from budget.stores.base import Store, open_store
from budget.stores.sqlite import SqliteStore
from budget.stores.tickets import Ticket
from budget.window import FOREVER

S = 1_000_000
# What a caller may draw on: unit, limit, and the length of a window in seconds (None: it does not end).
POOLS = {
    "hourly": (0, 20, 100),
    "tokens": (1, 50, 250),
    "forever": (0, 60, None),
    "calls": (4, 6, 100),
    "huge": (0, MAX, None),
    "slots": (5, 3, None),
    "rolling": (0, 25, None),
    "brief": (1, 60, None),
    "carried": (0, 12, 100),
    "shadowed": (0, 10, 100),
}
MORE: dict[str, dict[str, Any]] = {
    "rolling": {"span": 300 * S},
    "brief": {"span": 61 * S + 7, "shadow": True},  # which no 60 whole parts make up
    "carried": {"rollover": 8, "raised": 4},
    "shadowed": {"shadow": True, "rollover": 10},
}
SPANS = {pool: more["span"] // S for pool, more in MORE.items() if "span" in more}
NAMES = {pool: f'["{pool}","{SPANS[pool]}s rolling"]' if pool in SPANS else f"name of {pool}" for pool in POOLS}
SLOTS = 5  # the unit of calls at once: taken one by one, given back by every end, never spent


class Model:
    """The pool in plain dicts, from the words of the design alone."""

    def __init__(self) -> None:
        self.clock = self.moment = self.version = 0
        self.rows: dict[tuple[str, str], str] = {}
        self.buckets: dict[str, list[dict[str, int]]] = {}
        self.reservations: dict[str, dict[str, Any]] = {}
        self.entries: list[tuple[str, str | None, int]] = []

    def do(self, command: Command, now: int) -> dict[str, Any]:
        written = len(self.entries)
        back, self.moment = self.clock - now, max(self.clock, now)
        answer = self.carry_out(command, back)
        if any(kind != "refused" for kind, _, _ in self.entries[written:]):
            self.clock = self.moment
        return answer

    def carry_out(self, command: Command, back: int) -> dict[str, Any]:
        if isinstance(command, Reserve) and back > 5 * S:
            return {"status": "clock"}
        if isinstance(command, Status) and not command.sweep:
            return self.status(command)
        due = [r for r in self.reservations.values() if r["state"] == "open" and r["lease_end"] <= self.moment]
        for r in sorted(due, key=lambda r: (r["lease_end"], r["id"]))[:64]:
            self.end(r, "expired", self.rest(r))
        if isinstance(command, Sweep):
            return {"status": "swept", "count": min(len(due), 64)}
        answer: dict[str, Any] = getattr(self, type(command).__name__.lower())(command)
        return answer

    def reserve(self, command: Reserve) -> dict[str, Any]:
        known = self.reservations.get(command.id)
        if known:
            return {"status": "repeated" if known["digest"] == command.digest else "conflict", "known": known}
        if command.version != self.version:
            return {"status": "stale_policy"}
        found = [self.present(draw) for draw in command.draws]
        if None in found:
            return {"status": "stale_window"}
        taken = [self.taken(draw, bucket) for draw, bucket in zip(command.draws, found, strict=True)]  # type: ignore[arg-type]
        bars = [min(MAX, d.limit + b["carry"]) for d, b in zip(command.draws, found, strict=True)]  # type: ignore[index]
        over = [i for i, d in enumerate(command.draws) if d.amount > max(bars[i] - taken[i], 0)]
        refused = [i for i in over if not command.draws[i].shadow
                   or command.draws[i].amount > max(MAX - taken[i], 0)]  # fmt: skip
        if refused or command.frozen is not None:
            self.entries.append(("refused", command.id, 0))
            return {"status": "refused", "refused": refused}
        shares = []
        for draw, bucket in zip(command.draws, found, strict=True):
            if draw.pool is not None:
                bucket["reserved"] += draw.amount  # type: ignore[index]
                shares.append((self.stored(draw.pool, bucket), draw.unit, draw.amount))  # type: ignore[arg-type]
        made = {"id": command.id, "digest": command.digest, "state": "open", "amounts": command.amounts,
        "charged": None, "given": [0] * 6,
                "lease_end": self.moment + command.lease_us, "shares": shares, "ended": 0}  # fmt: skip
        self.reservations[command.id] = made
        self.entries.append(("reserved", command.id, 0))
        return {"status": "reserved", "known": made, "shadowed": over}

    def reconcile(self, command: Reconcile) -> dict[str, Any]:
        known = self.reservations.get(command.id)
        if known is None:
            if command.draws is None:
                return {"status": "unknown"}
            found = [self.at(draw, command.made) for draw in command.draws]
            return self.book("reconciled", command.id, "", command.actual, command.draws, found)
        actual = tuple(u if a is None else a for a, u in zip(command.actual, self.rest(known), strict=True))
        if known["state"] in ("reconciled", "refunded"):
            same = known["state"] == "reconciled" and actual == known["charged"]
            return {"status": "repeated" if same else "conflict", "known": known}
        return self.end(known, "reconciled", actual)

    def refund(self, command: Refund) -> dict[str, Any]:
        known = self.reservations.get(command.id)
        if known is None:
            known = {"id": command.id, "digest": "", "state": "refunded", "amounts": (0,) * 5, "charged": (0,) * 5,
                     "given": [0] * 6,
                     "lease_end": self.moment, "shares": [], "ended": self.moment}  # fmt: skip
            self.reservations[command.id] = known
            return {"status": "refunded", "known": known}
        if known["state"] in ("reconciled", "refunded"):
            return {"status": "repeated" if known["state"] == "refunded" else "conflict", "known": known}
        return self.end(known, "refunded", (0,) * 5)

    def record(self, command: Record) -> dict[str, Any]:
        known = self.reservations.get(command.id)
        if known:
            return {"status": "repeated" if known["digest"] == command.digest else "conflict", "known": known}
        piece = self.reservations.get(command.of or "")
        if piece and piece["state"] == "open":
            return self.pay(command, piece)
        if command.version != self.version:
            return {"status": "stale_policy"}
        found = [self.present(draw) for draw in command.draws]
        if None in found:
            return {"status": "stale_window"}
        return self.book(command.kind, command.id, command.digest, command.actual, command.draws, found)

    def pay(self, command: Record, piece: dict[str, Any]) -> dict[str, Any]:
        """The cost goes to spent where the slice is reserved, and what it frees, up to what is left, from there."""
        frees = command.frees or command.actual
        freed = [min(f or 0, has - had) for f, has, had in zip(frees, piece["amounts"], piece["given"], strict=False)]
        for bucket, unit, _ in piece["shares"]:
            if unit != SLOTS:
                bucket["reserved"] -= freed[unit]
                self.spend(bucket, command.actual[unit] or 0)
        for unit, amount in enumerate(freed):
            piece["given"][unit] += amount
        piece["charged"] = tuple(piece["given"][:5]) if any(piece["given"]) else None
        return self.booked(command.kind, command.id, command.digest, command.actual)

    def rest(self, known: dict[str, Any]) -> tuple[int, ...]:
        """What is still held of it, if it is open."""
        given = known["given"] if known["state"] == "open" else [0] * 5
        return tuple(amount - back for amount, back in zip(known["amounts"], given, strict=False))

    def renew(self, command: Renew) -> dict[str, Any]:
        known = self.reservations.get(command.id)
        if known is None or known["state"] != "open":
            return {"status": "ended" if known else "unknown", "known": known}
        known["lease_end"] = max(known["lease_end"], self.moment + command.lease_us)
        return {"status": "renewed", "known": known}

    def status(self, command: Status) -> dict[str, Any]:
        """What is due and was not expired yet holds no slot."""
        newest = [self.view(pool) if "span" in MORE.get(pool, {}) else self.newest(pool) for pool in command.pools]
        held = [r for r in self.reservations.values() if r["state"] == "open" and r["lease_end"] > self.moment]
        taken = [sum(b is bucket for r in held for bucket, _, _ in r["shares"]) for b in newest]
        pairs = zip(command.pools, newest, taken, strict=True)
        seen = [{**b, "reserved": n} if b and pool == "slots" else b for pool, b, n in pairs]
        return {"status": "status", "now": seen}

    def changepolicy(self, command: ChangePolicy) -> dict[str, Any]:
        key = (command.kind, command.identity)
        if self.rows.get(key) == command.body:
            return {"status": "unchanged"}
        self.rows.pop(key, None)
        if command.body is not None:
            self.rows[key] = command.body
        self.version += 1
        self.entries.append(("limit_set" if command.body is not None else "limit_unset", None, 0))
        return {"status": "changed"}

    def end(self, known: dict[str, Any], how: str, actual: tuple[int, ...]) -> dict[str, Any]:
        before = (known["charged"] if known["state"] == "expired" else None) or (0,) * 5
        for bucket, unit, amount in known["shares"]:
            bucket["reserved"] -= amount - known["given"][unit] if known["state"] == "open" else 0
            if unit != SLOTS:
                self.spend(bucket, actual[unit] - before[unit])
        known.update(state=how, charged=tuple(actual), ended=self.moment)
        self.entries.append((how, known["id"], actual[0] - before[0]))
        return {"status": how, "known": known}

    def book(
        self, how: str, id: str, digest: str, actual: Amounts, draws: Sequence[Draw], found: Sequence[Any]
    ) -> dict[str, Any]:
        for draw, bucket in zip(draws, found, strict=True):
            if draw.unit != SLOTS:
                self.spend(bucket, actual[draw.unit] or 0)
                self.stored(draw.pool or "", bucket)
        return self.booked(how, id, digest, actual)

    def booked(self, how: str, id: str, digest: str, actual: Amounts) -> dict[str, Any]:
        made = {"id": id, "digest": digest, "state": "reconciled", "amounts": actual, "charged": actual, "shares": [],
                "lease_end": self.moment, "ended": self.moment, "given": [0] * 6}  # fmt: skip
        self.reservations[id] = made
        self.entries.append((how, id, 0 if how in ("backfilled", "recovered") else actual[0] or 0))
        return {"status": how, "known": made}

    def spend(self, bucket: dict[str, int], amount: int) -> None:
        bucket["spent"] = MAX if bucket["spent"] == MAX else min(MAX, bucket["spent"] + amount)

    def newest(self, pool: str) -> dict[str, int] | None:
        return max(self.buckets.get(pool, []), key=lambda b: b["start"], default=None)

    def taken(self, draw: Draw, bucket: dict[str, int]) -> int:
        """What counts against a limit: of a rolling pool all parts that are not wholly outside."""
        parts = self.living(draw.pool or "", draw.span) if draw.span else [bucket]
        return sum(part["spent"] + part["reserved"] for part in parts)

    def living(self, pool: str, span: int) -> list[dict[str, int]]:
        return [part for part in self.buckets.get(pool, []) if self.moment - span < part["end"]]

    def view(self, pool: str) -> dict[str, int] | None:
        span = MORE[pool]["span"]
        parts = sorted(self.living(pool, span), key=lambda part: part["start"])
        if not parts:
            return None
        sums = {name: min(MAX, sum(part[name] for part in parts)) for name in ("spent", "reserved")}
        return {"start": parts[0]["start"], "end": parts[-1]["end"] + span, "carry": 0, **sums}

    def part(self, draw: Draw, at: int) -> dict[str, int]:
        size = (draw.span + 59) // 60
        start = at - at % size
        known = [part for part in self.buckets.get(draw.pool or "", []) if part["start"] == start]
        return known[0] if known else {"start": start, "end": start + size, "spent": 0, "reserved": 0, "carry": 0}

    def opened(self, draw: Draw, start: int) -> dict[str, int]:
        """A new window; after one that ended where it starts, with what that left."""
        newest, carry = self.newest(draw.pool or ""), 0
        if newest and draw.rollover:
            left = max(0, min(MAX, draw.limit - draw.raised + newest["carry"]) - newest["spent"] - newest["reserved"])
            carry = min(draw.rollover, left) if newest["end"] == start else draw.rollover
        return {"start": start, "end": draw.end, "spent": 0, "reserved": 0, "carry": carry}

    def present(self, draw: Draw) -> dict[str, int] | None:
        if draw.span:
            return self.part(draw, self.moment)
        newest = self.newest(draw.pool) if draw.pool else None
        if newest and self.moment < newest["end"]:
            return newest
        if not draw.start <= self.moment < draw.end:
            return None
        return self.opened(draw, max(draw.start, newest["end"]) if newest else draw.start)

    def at(self, draw: Draw, made: int) -> dict[str, int]:
        if draw.span:
            return self.part(draw, min(made, self.moment))
        newest = self.newest(draw.pool or "")
        if newest and newest["start"] <= made < newest["end"]:
            return newest
        known = [b for b in self.buckets.get(draw.pool or "", []) if b["start"] == draw.start]
        if known:
            return known[0]
        if newest and newest["end"] <= draw.start:
            return self.opened(draw, draw.start)
        return {"start": draw.start, "end": draw.end, "spent": 0, "reserved": 0, "carry": 0}

    def stored(self, pool: str, bucket: dict[str, int]) -> dict[str, int]:
        """Keep a bucket. A part that is outside is kept in a new pool alone; a newer one sweeps those that are."""
        known = self.buckets.setdefault(pool, [])
        if any(b is bucket for b in known):
            return bucket
        if span := MORE.get(pool, {}).get("span"):
            if known and bucket["end"] <= self.moment - span:
                return bucket
            if all(part["start"] < bucket["start"] for part in known):
                known[:] = self.living(pool, span)
        known.append(bucket)
        return bucket


def shown(outcome: Outcome) -> dict[str, Any]:
    """What two stores must agree on: everything but the sequence, in which a server has no refusals."""
    return {name: getattr(outcome, name) for name in outcome.__slots__ if name != "seq"} | {
        "buckets": list(outcome.buckets), "refused": list(outcome.refused), "rows": sorted(outcome.rows),
        "shadowed": list(outcome.shadowed),
    }  # fmt: skip


def run_group(store: Store, commands: Sequence[Command], now: int) -> list[Outcome]:
    """Carry out commands in one transaction, where the store has such a thing."""
    if not isinstance(store, SqliteStore):
        return [store.call("default", command, 10.0, now) for command in commands]
    store.call("default", Status([], sweep=False), 10.0, 0)  # it is open now, and its writer is idle
    tickets = [Ticket("default", command, now) for command in commands]
    store._writer.commit(tickets)
    assert all(ticket.error is None for ticket in tickets)
    return [ticket.outcome for ticket in tickets]  # type: ignore[misc]


PICKS = st.integers(0, 15)  # which reservation: one of the latest, or a new one
AMOUNTS = st.one_of(*[st.integers(0, 12)] * 5, st.sampled_from([0, 60, MAX - 5, MAX, 2 * MAX]))
FIGURES = st.tuples(AMOUNTS, st.integers(0, 30))
SOME_POOLS = st.lists(st.sampled_from(sorted(POOLS)), unique=True, min_size=1, max_size=4)
LEASES = st.sampled_from([1 * S, 60 * S, 60 * S, 600 * S])
BODIES = st.sampled_from(["1", "2", None])
KINDS = st.sampled_from(["recorded", "recorded", "backfilled", "recovered", "returned"])
SHIFTS = st.sampled_from([0, 0, 0, 40])  # callers who put the windows elsewhere


class Agreement(RuleBasedStateMachine):
    """All stores and the model, in step."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agreement-"))
        self.stores = {name: open_store(url(self.folder)) for name, url in STORES.items()}
        self.model = Model()
        self.now, self.made = 10_000 * S, 0

    def teardown(self) -> None:
        if not hasattr(self, "stores"):
            return
        try:
            self.compare_all()
        finally:
            for store in self.stores.values():
                store.close()
            shutil.rmtree(self.folder)

    @rule(seconds=st.sampled_from([0, 1, 30, 61, 100, 100, 250, -1, -4, -90]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * S

    @precondition(lambda self: any(r["state"] == "open" for r in self.model.reservations.values()))
    @rule()
    def a_lease_ends(self) -> None:
        self.now = max(self.now, min(r["lease_end"] for r in self.model.reservations.values() if r["state"] == "open"))

    @rule(pick=PICKS, many=st.lists(st.tuples(FIGURES, SOME_POOLS, LEASES), min_size=1, max_size=5), shift=SHIFTS)
    def reserve(self, pick: int, many: list[tuple[tuple[int, int], list[str], int]], shift: int) -> None:
        for figures, pools, lease in many:
            self.give([self.a_reserve(self.pick(pick, new=2), figures, pools, lease, shift=shift)])

    @rule(pick=PICKS, figures=FIGURES, pools=SOME_POOLS, frozen=st.booleans())
    def reserve_in_vain(self, pick: int, figures: tuple[int, int], pools: list[str], frozen: bool) -> None:
        """With a policy that is not the present one, or frozen."""
        self.give([self.a_reserve(self.pick(pick, new=3), figures, pools, S, frozen=frozen, old=not frozen)])

    @precondition(lambda self: any(r["state"] in ("open", "expired") for r in self.model.reservations.values()))
    @rule(pick=PICKS, figures=FIGURES, refund=st.booleans())
    def end(self, pick: int, figures: tuple[int, int], refund: bool) -> None:
        """End one that is open, or correct one that expired."""
        id = self.unended(pick) or ""
        self.give([Refund(id) if refund else Reconcile(id, (figures[0], None, None, None, None), {})])

    @rule(pick=PICKS, figures=FIGURES, said=st.booleans(), pools=SOME_POOLS, ago=st.sampled_from([None, 0, 50, 300]))
    def reconcile(self, pick: int, figures: tuple[int, int], said: bool, pools: list[str], ago: int | None) -> None:
        """End any, also one that has an end, and one that the store does not know."""
        id, amounts = self.pick(pick, new=10), self.amounts(figures)
        if ago is None:
            partial: Amounts = amounts if said else (amounts[0], None, None, None, None)
            self.give([Reconcile(id, partial, {"model": "m"})])
        else:
            made = max(0, self.model.clock - ago * S)
            self.give([Reconcile(id, amounts, {}, self.draws(pools, amounts, made), {"user": "u"}, made)])

    @rule(pick=PICKS, lease=st.one_of(st.none(), LEASES))
    def refund_or_renew(self, pick: int, lease: int | None) -> None:
        id = self.pick(pick, new=14)
        self.give([Refund(id) if lease is None else Renew(id, lease)])

    @rule(pick=PICKS, figures=FIGURES, pools=SOME_POOLS)
    def record(self, pick: int, figures: tuple[int, int], pools: list[str]) -> None:
        self.give([self.a_record(self.pick(pick, new=3), figures, pools)])

    @precondition(lambda self: any(r["state"] == "open" for r in self.model.reservations.values()))
    @rule(pick=PICKS, figures=FIGURES, pools=SOME_POOLS, kind=KINDS, frees=st.one_of(st.none(), FIGURES))
    def pay(
        self, pick: int, figures: tuple[int, int], pools: list[str], kind: str, frees: tuple[int, int] | None
    ) -> None:
        """Out of a slice that is open, or has expired."""
        record = self.a_record(self.pick(pick, new=8), figures, pools)
        record.of, record.kind = self.unended(pick), kind
        record.frees = self.amounts(frees) if frees else None
        self.give([record])

    @rule(what=st.sampled_from(["sweep", "status", "look", "x", "y"]), pools=SOME_POOLS, body=BODIES)
    def look_or_change(self, what: str, pools: list[str], body: str | None) -> None:
        others = {"sweep": Sweep(), "status": Status(pools), "look": Status(pools, sweep=False)}
        self.give([others.get(what) or ChangePolicy("limit", what, body, {"actor": "a"})])

    @rule(data=st.data())
    def group(self, data: st.DataObject) -> None:
        """Several commands at one instant."""
        commands: list[Command] = []
        for pick in data.draw(st.lists(PICKS, min_size=2, max_size=8)):
            figures, pools = data.draw(FIGURES), data.draw(SOME_POOLS)
            id = self.pick(pick, new=8)
            match data.draw(
                st.sampled_from(["reserve", "reserve", "reconcile", "refund", "record", "renew", "look", "policy"])
            ):
                case "reserve":
                    commands.append(self.a_reserve(id, figures, pools, 60 * S))
                case "reconcile":
                    commands.append(Reconcile(self.unended(pick) or id, self.amounts(figures), {}))
                case "refund":
                    commands.append(Refund(self.unended(pick) or id))
                case "record":
                    commands.append(self.a_record(id, figures, pools))
                    commands[-1].of = self.unended(pick)  # type: ignore[union-attr]
                case "renew":
                    commands.append(Renew(id, 60 * S))
                case "look":
                    commands.append(Status(pools, sweep=False))
                case "policy":
                    commands.append(ChangePolicy("limit", "g", data.draw(st.sampled_from(["1", None])), {}))
        self.give(commands)

    # How.

    def pick(self, pick: int, *, new: int) -> str:
        """Return a new id if `pick` is at least `new`, else one of the latest that every store must still know."""
        now = max(self.now, self.model.clock)
        known = [
            r["id"] for r in self.model.reservations.values() if r["state"] == "open" or now - r["ended"] < 3000 * S
        ]
        if pick >= new or not known:
            self.made += 1
            return f"{self.made * 7919 % 10007:032x}"  # their order says nothing of their age
        return str(known[-1 - pick % min(len(known), 5)])

    def unended(self, pick: int) -> str | None:
        """Return one that is open or expired: what has its last end still before it."""
        known = sorted(r["id"] for r in self.model.reservations.values() if r["state"] in ("open", "expired"))
        return known[pick % len(known)] if known else None

    def amounts(self, figures: tuple[int, int]) -> tuple[int, int, int, int, int]:
        usd, tokens = figures
        return usd, tokens, tokens, 0, 1

    def draws(self, pools: list[str], amounts: Sequence[int], at: int, shift: int = 0) -> list[Draw]:
        found = []
        for pool in pools:
            unit, limit, seconds = POOLS[pool]
            start = 0 if seconds is None else (at - shift * S) // (seconds * S) * seconds * S + shift * S
            end = FOREVER if seconds is None else start + seconds * S
            amount = 1 if unit == SLOTS else amounts[unit]
            found.append(Draw(pool, NAMES[pool], unit, limit, amount, start, end, 0, pool, **MORE.get(pool, {})))
        return found

    def a_reserve(
        self, id: str, figures: tuple[int, int], pools: list[str], lease: int, *, frozen: bool = False,
        old: bool = False,
        shift: int = 0,
    ) -> Reserve:  # fmt: skip
        amounts = self.amounts((min(figures[0], MAX), figures[1]))
        version = self.model.version - old
        draws = self.draws(pools, amounts, self.now, shift)
        return Reserve(id, f"{figures}", amounts, draws, version, lease, {"user": "u"}, {}, "{}" if frozen else None)

    def a_record(self, id: str, figures: tuple[int, int], pools: list[str]) -> Record:
        amounts = self.amounts(figures)
        draws = self.draws(pools, amounts, max(self.now, self.model.clock))
        return Record(id, f"{figures}", amounts, draws, self.model.version, {}, {})

    def give(self, commands: list[Command]) -> None:
        answers = {name: run_group(store, commands, self.now) for name, store in self.stores.items()}
        for i, command in enumerate(commands):
            expected = self.model.do(command, self.now)
            shapes = {name: shown(outcomes[i]) for name, outcomes in answers.items()}
            first = next(iter(shapes.values()))
            for name, shape in shapes.items():
                assert shape == first, f"{name} differs on {command}"
            self.compare(expected, next(iter(answers.values()))[i])
        for name, outcomes in answers.items():
            assert outcomes[-1].seq == self.stores[name].last("default")

    def compare(self, expected: dict[str, Any], outcome: Outcome) -> None:
        assert outcome.status == expected["status"]
        assert (outcome.now, outcome.count) == (self.model.moment, expected.get("count", 0))
        assert list(outcome.refused) == expected.get("refused", [])
        assert list(outcome.shadowed) == expected.get("shadowed", [])
        if known := expected.get("known"):
            assert outcome.reservation is not None
            found = outcome.reservation
            assert (found.id, found.state, found.charged) == (known["id"], known["state"], known["charged"])
            if known["state"] == "open":
                assert found.lease_end == known["lease_end"]
        if "now" in expected:
            model = [b and (b["start"], b["end"], b["spent"], b["reserved"], b["carry"]) for b in expected["now"]]
            assert [b and (b.start, b.end, b.spent, b.reserved, b.carry) for b in outcome.buckets] == model

    def compare_all(self) -> None:
        model = {
            (pool, b["start"]): (b["end"], b["spent"], b["reserved"], b["carry"])
            for pool, found in self.model.buckets.items()
            for b in found
        }
        snapshots = [store.snapshot("default") for store in self.stores.values()]
        postings: list[Any] = []
        for store, snapshot in zip(self.stores.values(), snapshots, strict=True):
            assert {key: (b.end, b.spent, b.reserved, b.carry) for key, b in snapshot.buckets.items()} == model
            assert snapshot[:2] == snapshots[0][:2]  # a server's chain is another one, without the refusals
            entries = store.entries("default", 0)
            if not postings:
                postings = [entry.postings for entry in entries]
            assert [entry.postings for entry in entries] == postings
            assert [(e.kind, e.reservation, e.amounts[0]) for e in entries] == self.model.entries
            open_ids = {r["id"] for r in self.model.reservations.values() if r["state"] == "open"}
            assert {r.id for r in store.reservations("default")} == open_ids
            assert books(store).faults == []
        # Reserved is the sum of what is open.
        held: dict[int, int] = {}
        for r in self.model.reservations.values():
            for bucket, unit, amount in r["shares"] if r["state"] == "open" else ():
                held[id(bucket)] = held.get(id(bucket), 0) + amount - r["given"][unit]
        for found in self.model.buckets.values():
            assert all(b["reserved"] == held.get(id(b), 0) for b in found)


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
