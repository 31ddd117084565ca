"""Exact to the nano-dollar up to the largest number, by whom it is asked, and with no key but those declared.

What has nothing to do with a server runs on every store: they answer alike. Scripts compute in doubles, so that
2^53 - 1 and its neighbours are where one of them would go wrong.
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from math import inf, nan
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis
from conftest import books

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, Limit, stores
from budget.cli import main
from budget.commands import (
    Amounts,
    ChangePolicy,
    Command,
    Draw,
    LoadPolicy,
    Outcome,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reserve,
    Status,
    Sweep,
)
from budget.money import MAX, format_usd, to_decimal
from budget.stores.base import Store
from budget.stores.keys import Keys, encoded
from budget.stores.multiplex import ServerError
from budget.stores.redis import RedisStore
from budget.stores.scripts import flow, run_script
from budget.window import FOREVER

Make = Callable[..., Budget]
S = 1_000_000
_LARGEST = 2**63 - 1  # of what an entry holds


def usd(nanos: int) -> str:
    return f"${format_usd(nanos)}"


def figures(budget: Budget) -> tuple[int, int, int]:
    """Spent, reserved and available of the only pool, in nano-dollars."""
    (pool,) = budget.status()
    spent, reserved, available = (int(Decimal(each).scaleb(9)) for each in (pool.spent, pool.reserved, pool.available))
    return spent, reserved, available


def booked(budget: Budget) -> list[tuple[str, int]]:
    return [(entry.kind, entry.amounts[0]) for entry in budget.entries() if entry.kind not in ("reserved", "refused")]


# Amounts.


def test_the_largest_amount_is_exact_through_every_verb(budget_factory: Make) -> None:
    budget = budget_factory(limits=[f"{usd(MAX)}/lifetime"])
    first = budget.reserve(usd(MAX - 1))
    assert (first.usd, figures(budget)) == (to_decimal(MAX - 1), (0, MAX - 1, 1))
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve(usd(2))
    e = caught.value
    assert (e.spent, e.reserved, e.requested, e.available) == (0, to_decimal(MAX - 1), to_decimal(2), to_decimal(1))
    second = budget.reserve(usd(1))
    assert figures(budget) == (0, MAX, 0)
    assert not budget.check(usd(1))
    budget.reserve("$0")
    budget.refund(first)
    assert figures(budget) == (0, 1, MAX - 1)
    budget.reconcile(budget.reserve(usd(MAX - 1)), usd=usd(MAX - 2))
    budget.reconcile(second, usd=usd(1))
    assert figures(budget) == (MAX - 1, 0, 1)
    budget.record(usd=usd(1))
    assert figures(budget) == (MAX, 0, 0)
    assert booked(budget) == [("refunded", 0), ("reconciled", MAX - 2), ("reconciled", 1), ("recorded", 1)]
    assert budget.engine.store.reservations("default")[0].usd == 0
    assert (books(budget.engine.store).faults, books(budget.engine.store).saturated) == ([], [])


def test_the_largest_amount_expires_exactly_and_is_corrected(budget_factory: Make) -> None:
    budget = budget_factory(limits=[f"{usd(MAX)}/lifetime"])
    held = budget.reserve(usd(MAX), lease=0.001)
    time.sleep(0.002)
    assert figures(budget) == (MAX, 0, 0)
    assert booked(budget) == [("expired", MAX)]
    # A counter at its ceiling may stand for more, so that nothing is taken off it.
    budget.reconcile(held, usd=usd(MAX - 1))
    assert figures(budget) == (MAX, 0, 0)
    assert booked(budget) == [("expired", MAX), ("reconciled", -1)]
    found = books(budget.engine.store)
    assert (found.faults, len(found.saturated)) == ([], 1)


def test_one_less_than_the_largest_expires_and_is_corrected(budget_factory: Make) -> None:
    budget = budget_factory(limits=[f"{usd(MAX)}/lifetime"])
    held = budget.reserve(usd(MAX - 1), lease=0.001)
    time.sleep(0.002)
    assert figures(budget) == (MAX - 1, 0, 1)
    budget.reconcile(held, usd=usd(MAX - 2))
    assert figures(budget) == (MAX - 2, 0, 2)
    assert booked(budget) == [("expired", MAX - 1), ("reconciled", -1)]
    assert books(budget.engine.store).saturated == []


def test_one_more_is_refused_beforehand(budget_factory: Make) -> None:
    budget = budget_factory(limits=[f"{usd(MAX)}/lifetime"])
    for too_much in (MAX + 1, 2**63, 10**30):
        with pytest.raises(ConfigError, match="limit: above"):
            Limit(f"{usd(too_much)}/day")
        with pytest.raises(ConfigError, match="limit: above"):
            budget.limits.set(f"{usd(too_much)}/day")
        with pytest.raises(ConfigError, match="amount: above"):
            budget.reserve(usd(too_much))
    with pytest.raises(ConfigError, match="tokens: "):
        budget.reserve("$1", tokens=MAX + 1)
    assert list(budget.entries()) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1, 1.0, True, None])
def test_what_is_no_amount_of_money(make_budget: Make, redis_url: str, bad: Any) -> None:
    budget = make_budget(redis_url, limits=["$1/day"])
    asks: list[Callable[[], Any]] = [
        lambda: budget.reserve(bad), lambda: budget.record(usd=bad), lambda: budget.reconcile("0" * 32, usd=bad)
    ]  # fmt: skip
    for ask in asks:
        with pytest.raises((ArgumentTypeError, ConfigError)):
            ask()
    for text in ("NaN", "Infinity", "-1", "1e3"):
        with pytest.raises(ConfigError):
            budget.reserve(text)
        with pytest.raises(ConfigError):
            budget.record(usd=Decimal(text) if text != "1e3" else text)
    assert list(budget.entries()) == []


@pytest.mark.parametrize("actual", [MAX + 1, MAX + 2, 2 * MAX + 1, _LARGEST])
def test_one_more_is_booked_afterwards(
    shared_url: str, make_budget: Make, actual: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger has it exactly; the counter stays at its ceiling, refuses, and is reported."""
    made = make_budget(shared_url, limits=[f"{usd(MAX)}/lifetime", f"{usd(MAX)}/day"])
    made.reconcile(made.reserve("$1"), usd=usd(actual))
    made.record(usd=usd(actual))
    assert booked(made) == [("reconciled", actual), ("recorded", actual)]
    assert [entry.usd for entry in made.entries()][1:] == [to_decimal(actual)] * 2
    for pool in made.status():
        assert (pool.spent, pool.reserved, pool.available) == (to_decimal(MAX), 0, 0)
    with pytest.raises(BudgetExceeded) as caught:
        made.reserve(usd(1))
    assert caught.value.available == 0
    assert made.reserve("$0").state == "open"
    assert main(["ledger", "verify", "--store", shared_url, "--json"], standalone_mode=False) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["faults"], len(found["saturated"])) == (True, [], 2)


AMOUNTS: Amounts = (10, 0, 0, 0, 1)


def a_draw(amount: int = 10, limit: int = 100, pool: str = "p1") -> Draw:
    return Draw(pool, "its name", 0, limit, amount, 0, FOREVER, 0, "its limit")


def a_reserve(number: int, *draws: Draw, lease: int = 60 * S, version: int = 0) -> Reserve:
    return Reserve(f"{number:032x}", "asked", AMOUNTS, draws or (a_draw(),), version, lease, {"user": "u"}, {})


@pytest.mark.parametrize(("amount", "limit"), [
    (-1, 100), (-MAX, 100), (-(2**63), MAX), (-1, -1), (1, -1), (2**63 - 1, MAX), (MAX + 1, MAX), (nan, 100),
    (inf, MAX), (-inf, 100), (1, nan), (nan, nan), (1, -inf),
])  # fmt: skip
def test_an_amount_that_no_caller_may_ask_for_is_refused_by_the_store(store: Store, amount: Any, limit: Any) -> None:
    for number, draws in enumerate(([a_draw(amount, limit)], [a_draw(), a_draw(amount, limit, "p2")])):
        assert store.call("default", a_reserve(number, *draws), 10.0, S).status == "refused"
    assert store.snapshot("default").buckets == {}
    assert store.call("default", a_reserve(2), 10.0, S).status == "reserved"


def test_arguments_that_are_cut_short_fail_before_anything_is_written(redis_url: str) -> None:
    store = RedisStore(redis_url)
    keys = Keys("default")
    held = store.call("default", a_reserve(1), 10.0, S).reservation
    # Commands, and which of their arguments are numbers that the script computes with.
    commands: list[tuple[Command, set[int]]] = [
        (a_reserve(2, a_draw(pool="p3")), {2}),
        (Reconcile(f"{1:032x}", AMOUNTS, {}, known=held), {2, 3}),
        (Refund(f"{1:032x}", known=held), {2}),
        (Record(f"{3:032x}", "asked", AMOUNTS, [a_draw(pool="p4")], 0, {}, {}), {2, 3}),
        (Renew(f"{1:032x}", S), {2}),
        (ChangePolicy("limit", "a", "b", {}), {2}),
        (LoadPolicy(), {1}),
        (Status(["p1"]), {1}),
    ]
    for now, command in every_command():
        store.call("other", command, 10.0, now * S)  # the server has the scripts now
    with redis.Redis.from_url(redis_url) as client:
        before = {key: client.dump(key) for key in client.keys("*")}
        for command, numbers in commands:
            _, verb, count, *rest = words(next(flow(keys, command, S)))
            names, args = rest[: int(count)], rest[int(count) :]
            for i in numbers:
                short = [arg[:-1] if j == i else arg for j, arg in enumerate(args, 1)]
                with pytest.raises(redis.ResponseError, match="data string too short"):
                    client.execute_command("EVALSHA", verb, count, *names, *short)
                assert {key: client.dump(key) for key in client.keys("*")} == before
    store.close()


def words(data: bytes) -> list[bytes]:
    """Read a request, which is written as an array is."""
    reader = hiredis.Reader()
    reader.feed(data)
    found: list[bytes] = reader.gets()
    return found


# Names.

_E = "e\N{COMBINING ACUTE ACCENT}"
IDS = [
    "{x}", "x", "a:b", "a", "b", "*", "?", "a\\b", "a\\\\b", "[x]", "[a-z]", "Alice", "alice", "ALICE", "\xdf", "ss",
    "(none)", "user=(none)", "null", "None", _E, unicodedata.normalize("NFC", _E), "\N{LATIN SMALL LIGATURE FI}", "fi",
    "\xe9" * 128, "\xe9" * 127 + "e ", "\N{GRINNING FACE}" * 64, "a b", "a  b", "'", '"', '"}', "a,b",
    "budget:{acct}:m", "%00", "\u2028", "\N{NO-BREAK SPACE}", " ", "0", "00", "a\N{ZERO WIDTH SPACE}",
]  # fmt: skip


def test_no_two_users_share_a_pool(store_url: str, make_budget: Make) -> None:
    """Whatever they are called, and whoever has no name."""
    budget = make_budget(store_url, limits=[Limit("$1/day", per="user")])
    scopes: list[dict[str, Any]] = [{}, *({"user": id} for id in IDS)]
    for scope in scopes:
        budget.reserve("$0.60", **scope)
        with pytest.raises(BudgetExceeded):
            budget.reserve("$0.60", **scope)
        if scope:
            budget.limits.set("$3/week", **scope)
    shown = [pool.subject for pool in budget.status() if str(pool.limit.window) == "day"]
    assert sorted(str(dict(subject)) for subject in shown) == sorted(str({"user": None, **scope}) for scope in scopes)
    assert all(pool.reserved == Decimal("0.6") for pool in budget.status() if str(pool.limit.window) == "day")
    assert len(set(budget.limits)) == len(scopes)
    assert books(budget.engine.store).faults == []


ACCOUNTS = ["a", "A", "a-b", "a_b", "b", "default", "x" * 64]


def test_no_two_accounts_share_a_key(redis_url: str) -> None:
    budgets = [Budget(redis_url, account=account, limits=[Limit("$1/day", per="user")]) for account in ACCOUNTS]
    for number, each in enumerate(budgets):
        for id in IDS:
            each.reserve(f"$0.{number + 1}", user=id)
            each.limits.set("$0.9/day", user=id)
            with suppress(BudgetExceeded):
                each.reserve("$0.95", user=id)
    with redis.Redis.from_url(redis_url) as client:
        keys = {key.decode() for key in client.scan_iter("*", count=1000)}
    of_account = {account: {key for key in keys if key.startswith(f"budget:{{{account}}}:")} for account in ACCOUNTS}
    assert set.union(*of_account.values()) == keys
    assert sum(map(len, of_account.values())) == len(keys)
    for number, (account, each) in enumerate(zip(ACCOUNTS, budgets, strict=True)):
        buckets = each.engine.store.snapshot(account).buckets.values()
        assert [bucket.reserved for bucket in buckets if bucket.reserved] == [(number + 1) * 10**8] * len(IDS)
        assert len(list(each.entries())) == 3 * len(IDS)
        assert books(each.engine.store, account).faults == []
    budgets[0].engine.store.remove("a")
    with redis.Redis.from_url(redis_url) as client:
        assert {key.decode() for key in client.scan_iter("*", count=1000)} == keys - of_account["a"]
    for each in budgets:
        each.close()


# Keys.

LUA = sorted((Path(stores.__file__).parent / "lua").glob("*.lua"))
_CALL = re.compile(r"redis\.call\('(\w+)'(?:, (.*))?")
_A_KEY = re.compile(r"KEYS\[|unpack\(KEYS\b")


def test_scripts_name_no_key_of_their_own() -> None:
    """What follows each command is one of KEYS or all; TIME alone has no key."""
    commands = 0
    for path in LUA:
        for line in path.read_text().splitlines():
            code = line.partition("--")[0]
            assert "pcall" not in code, "an error must end the script"
            for command, rest in _CALL.findall(code):
                commands += 1
                assert command == "TIME" or _A_KEY.match(rest), f"{path.name}: {line}"
    assert commands > 20


def every_command() -> Iterator[tuple[int, Command]]:
    """Commands, and when, that take every script through all that it does."""
    first, second = a_draw()._replace(end=100 * S), a_draw()._replace(start=100 * S, end=200 * S)
    third, other = second._replace(start=200 * S, end=300 * S), a_draw(pool="p2")
    yield 5, ChangePolicy("limit", "a", "body", {})
    yield 5, ChangePolicy("limit", "b", "body", {})
    yield 5, ChangePolicy("limit", "b", None, {})
    yield 6, LoadPolicy()
    yield 10, a_reserve(1, first, other, lease=900 * S, version=3)
    yield 10, a_reserve(2, first, version=3)
    yield 10, a_reserve(3, first._replace(amount=200), version=3)
    yield 11, Renew(f"{2:032x}", 600 * S)
    yield 12, Refund(f"{2:032x}")
    yield 12, Refund(f"{9:032x}")
    yield 110, a_reserve(4, second, version=3)
    yield 111, Reconcile(f"{1:032x}", (None,) * 5, {})
    yield 112, Reconcile(f"{5:032x}", AMOUNTS, {})
    yield 112, Reconcile(f"{5:032x}", AMOUNTS, {}, [first, other], {}, 10 * S)
    yield 113, Record(f"{6:032x}", "asked", AMOUNTS, [second, other], 3, {}, {})
    yield 180, Status(["p1", "p2"], sweep=False)
    yield 180, Sweep()
    yield 181, Refund(f"{4:032x}")
    yield 210, Record(f"{7:032x}", "asked", AMOUNTS, [third], 3, {}, {})
    yield 220, Status(["p1", "p2"])


Ask = Callable[[bytes, Sequence[bytes]], Any]


@contextmanager
def as_user(url: str) -> Iterator[Ask]:
    """Give a function that sends a request as a user of the server who may touch the given keys and no others."""
    with redis.Redis.from_url(url) as client:

        def allow(keys: Sequence[bytes]) -> None:
            rules = ["on", ">secret", "+@all", "resetkeys", *[b"~" + key for key in keys]]
            client.execute_command("ACL", "SETUSER", "worker", *rules)

        allow([])
        options = client.get_connection_kwargs()
        connect: Any = redis.Connection  # it has no types
        wire = connect(host=options["host"], port=options["port"], username="worker", password="secret")

        def ask(data: bytes, keys: Sequence[bytes]) -> Any:
            allow(keys)
            wire.send_packed_command([data])
            try:
                return wire.read_response()
            except redis.ResponseError as error:
                return ServerError(str(error))

        try:
            yield ask
        finally:
            wire.disconnect()
            client.acl_deluser("worker")


def run_as(ask: Ask, steps: Any) -> Any:
    """Take the steps of a command, each with the keys that it declares; return its outcome."""
    try:
        data = next(steps)
        while True:
            name, *rest = words(data)
            data = steps.send(ask(data, rest[2 : 2 + int(rest[1])] if name == b"EVALSHA" else rest[:1]))
    except StopIteration as end:
        return end.value


def shown(outcome: Outcome) -> dict[str, Any]:
    return {name: getattr(outcome, name) for name in outcome.__slots__} | {"buckets": list(outcome.buckets)}


def test_scripts_touch_declared_keys_alone(redis_url: str) -> None:
    """Each request is carried out for a user who may touch just the keys that it declares."""
    store, keys = RedisStore(redis_url), Keys("fenced")
    with as_user(redis_url) as ask:
        for now, command in every_command():
            expected = store.call("free", command, 10.0, now * S)
            assert shown(run_as(ask, flow(keys, command, now * S))) == shown(expected)
        store.snapshot("free")  # the server has the script by then
        names = [keys.marker, keys.closed, keys.names, *[keys.pool + pool for pool in store.names("free")]]
        assert run_as(ask, run_script(encoded("snapshot", names, [])))[1] == 2
        (data, *_) = run_script(encoded("snapshot", names, []))
        assert isinstance(ask(data, words(data)[3:-1]), ServerError), "there is no fence"
    free, fenced = ([(e.kind, e.amounts, e.postings) for e in store.entries(name, 0)] for name in ("free", "fenced"))
    assert free == fenced
    assert {kind for kind, *_ in free} == {
        "limit_set", "limit_unset", "reserved", "refused", "refunded", "reconciled", "recorded", "expired",
    }  # fmt: skip
    store.close()


def test_a_reconcile_that_was_sent_for_an_unknown_call_finds_it(store_url: str) -> None:
    """Its reserve arrived in between. The caller knows when it was made, and nothing else of it."""
    store = stores.base.open_store(store_url)
    draw = Draw("p1", "its name", 0, 100, 10, 0, FOREVER, 0, "its limit")
    store.call("default", Reserve("1" * 32, "asked", (10, 20, 20, 0, 1), [draw], 0, 60 * S, {"user": "u"}, {}), 10.0)
    made = store.reservations("default")[0].made
    command = Reconcile("1" * 32, (4, 5, 5, 0, 1), {}, [draw], {"user": "u"}, made)
    outcome = store.call("default", command, 10.0)
    assert outcome.status == "reconciled"
    assert outcome.reservation is not None
    assert (outcome.reservation.amounts, outcome.reservation.charged) == ((10, 20, 20, 0, 1), (4, 5, 5, 0, 1))
    assert dict(outcome.reservation.scope) == {"user": "u"}
    assert [bucket[3:5] for bucket in outcome.buckets if bucket] == [(4, 0)]
    less = store.call("default", Reconcile("1" * 32, (4, None, None, None, None), {}), 10.0)
    assert less.status == "conflict"  # what it does not say is what was reserved, and that was not what it cost
    store.close()


def test_what_requests_have_in_common_is_not_taken_for_the_rest(store: Store) -> None:
    """Two accounts with pools of the same ids, two costs of the same pools, looks that differ at the front alone."""
    pools = [f"p{n}" for n in range(12)]
    draws = [Draw(pool, f"name of {pool}", 0, 100, 1, 0, FOREVER, 0, "its limit") for pool in pools]
    figures = (1, 0, 0, 0, 1)
    for account, times in (("one", 1), ("two", 2)):
        for n in range(times):
            reserve = Reserve(f"{n:032x}", "asked", figures, draws, 0, 60 * S, {}, {})
            assert store.call(account, reserve, 10.0).status == "reserved"
    assert store.call("one", Reconcile(f"{0:032x}", figures, {}), 10.0).status == "reconciled"
    unknown = Reconcile(f"{9:032x}", figures, {}, draws, {}, 1)
    assert store.call("one", unknown, 10.0).status == "reconciled"
    for account, expected in (("one", (2, 0)), ("two", (0, 2))):
        for asked in (pools, pools[::-1], ["none", *pools[1:]], pools):
            found = store.call(account, Status(asked), 10.0).buckets
            assert [b and (b.spent, b.reserved) for b in found] == [None if p == "none" else expected for p in asked]
        assert books(store, account).faults == []
