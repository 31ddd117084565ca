"""The policy: which limits a call must satisfy, and which pools it draws on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.errors import ConfigError
from budget.ledger import dumps
from budget.limits import Limit
from budget.money import MAX
from budget.policy import Match, Policy, match, pool_id, read_name
from budget.rows import limit_body, raise_body, read_limit, selector_identity
from budget.window import FOREVER, SECOND, Window, at_zone

AMOUNTS = (10, 20, 15, 5, 1)
DAY = 86400 * 10**6
IDS = [
    "alice",
    "bob",
    "(none)",
    "None",
    "null",
    "",
    '"',
    "a b",
    "user",
    "*",
    "{x}",
    "a:b",
    "a,b",
    '","',
    "\\",
    "alice ",
    "Alice",
    "ａ",
]


def policy(*own: Limit, stored: Sequence[Limit] = (), freezes: Sequence[Mapping[str, str]] = ()) -> Policy:
    rows = [("limit", *limit_body(limit)) for limit in stored]
    rows += [("freeze", selector_identity(selector), "{}") for selector in freezes]
    return Policy(7, rows, own)


def applied(found: Policy, **scope: str) -> list[str]:
    return [str(m.limit) for m in found.matches(scope, [], [])]


def pools(found: Policy, **scope: str) -> list[str | None]:
    return [m.pool for m in found.matches(scope, [], [])]


# Which limits.


def test_selectors_and_attributes() -> None:
    found = policy(
        Limit("$9/day"),
        Limit("$5/day", user="alice"),
        Limit("$4/day", team="x"),
        Limit("$3/day", user="alice", team="x"),
    )
    assert applied(found) == ["$9/day"]
    assert applied(found, user="bob") == ["$9/day"]
    assert applied(found, user="alice") == ["$9/day", "user=alice $5/day"]
    assert applied(found, team="x") == ["$9/day", "team=x $4/day"]
    assert applied(found, user="alice", team="y", agent="z") == ["$9/day", "user=alice $5/day"]
    assert applied(found, user="alice", team="x") == [
        "$9/day",
        "user=alice $5/day",
        "team=x $4/day",
        "team=x user=alice $3/day",
    ]


def test_one_subject_replaces_per() -> None:
    found = policy(
        Limit("$5/day", per="user"),
        Limit("$50/day", user="alice"),
        Limit("$9/week", per="user"),
        Limit("7 requests/day", per="user"),
    )
    assert applied(found, user="alice") == ["user=alice $50/day", "per=user $9/week", "per=user 7 requests/day"]
    assert applied(found, user="bob") == ["per=user $5/day", "per=user $9/week", "per=user 7 requests/day"]


def test_one_subjects_slots_replace_those_per_subject() -> None:
    found = policy(
        Limit("8 concurrent", per="user"), Limit("2 concurrent", user="alice"), Limit("9 requests/lifetime", per="user")
    )
    assert applied(found, user="alice") == ["user=alice 2 concurrent", "per=user 9 requests/lifetime"]
    assert applied(found, user="bob") == ["per=user 8 concurrent", "per=user 9 requests/lifetime"]


@pytest.mark.parametrize("other", ["8 concurrent", "$1/week", "5 tokens/day", "$1/lifetime", "5 requests/day"])
def test_only_of_the_same_unit_and_window(other: str) -> None:
    found = policy(Limit("$5/day", per="user"), Limit(other, user="alice"))
    assert len(applied(found, user="alice")) == 2


def test_replacement_among_several_attributes() -> None:
    found = policy(
        Limit("$5/day", per="user", team="x"), Limit("$6/day", user="alice", team="x"), Limit("$7/day", user="alice"),
        Limit("$8/day", per="user"), Limit("$9/day", per="team"),
    )  # fmt: skip
    assert applied(found, user="alice", team="x") == [
        "team=x user=alice $6/day",
        "user=alice $7/day",
        "per=team $9/day",
    ]
    assert applied(found, user="bob", team="x") == ["team=x per=user $5/day", "per=user $8/day", "per=team $9/day"]
    assert applied(found, user="alice", team="y") == ["user=alice $7/day", "per=team $9/day"]


def test_a_replacing_limit_may_be_in_the_store() -> None:
    found = policy(Limit("$5/day", per="user"), stored=[Limit("$50/day", user="alice").set_in("store", 3)])
    assert applied(found, user="alice") == ["user=alice $50/day"]


def test_the_store_over_the_code() -> None:
    stored = [Limit("$1/day", tz="Europe/Berlin").set_in("store", 5), Limit("$2/week").set_in("store", 9),
              Limit("$3/month").set_in("store", 4)]  # fmt: skip
    found = policy(Limit("$4/year"), Limit("$5/day"), stored=stored)
    assert [(str(x), x.source, x.tz) for x in found.limits] == [
        ("$4/year", "code", "UTC"), ("$1/day", "store", "Europe/Berlin"), ("$3/month", "store", "UTC"), ("$2/week",
        "store", "UTC"),
    ]  # fmt: skip


@given(st.lists(st.sampled_from(["$5/day", "$6/day", "user=alice $1/day", "per=user $2/day", "team=x $3/week",
"per=team $4/day",
                                 "team=x per=user $7/day", "9 requests/day", "user=alice team=x 8 tokens/hour"]),
                                 unique=True),
       st.dictionaries(st.sampled_from(["user", "team"]), st.sampled_from(["alice", "x", "y"])))  # fmt: skip
def test_matches_by_brute_force(texts: list[str], scope: dict[str, str]) -> None:
    own = list({limit.identity: limit for limit in map(Limit, texts)}.values())
    expected = []
    for limit in own:
        if not dict(limit.selector).items() <= scope.items():
            continue
        if limit.per in scope:
            subject = {**dict(limit.selector), limit.per: scope[limit.per]}  # type: ignore[dict-item]
            if any(
                dict(x.selector) == subject and x.per is None and (x.unit, x.window) == (limit.unit, limit.window)
                for x in own
            ):
                continue
        expected.append(limit)
    assert [m.limit for m in policy(*own).matches(scope, [], [])] == expected


def test_of_two_limits_of_one_identity_in_the_code_the_smallest_holds() -> None:
    """All that match must allow, and a pool is drawn on once; none is shown that does not hold."""
    rules = [Limit("$100/day"), Limit("$3/request"), Limit("$0.50/day", tz="Asia/Tokyo"), Limit("$2/request")]
    for own in (rules, rules[::-1]):
        found = policy(*own)
        assert sorted(str(limit) for limit in found.limits) == ["$0.5/day", "$2/request"]
        draws = found.draws(found.matches({}), AMOUNTS, 5)
        assert sorted(draw.limit for draw in draws) == [5 * 10**8, 2 * 10**9]
    in_store = policy(Limit("$100/day"), Limit("$50/day"), stored=[Limit("$7/day").set_in("store", 3)])
    assert [str(limit) for limit in in_store.limits] == ["$7/day"]


def test_a_limit_of_the_code_that_ends_stands_before_the_lasting_one() -> None:
    ends = [Limit("$50/day", until=at_zone(500)), Limit("$90/day", until=at_zone(300))]
    for own in ([Limit("$5/day"), *ends], [*ends, Limit("$5/day")]):
        found = Policy(7, (), own)
        assert [[str(x) for x in found.at(now).limits] for now in (0, 299, 300, 499, 500)] == [
            ["$90/day"], ["$90/day"], ["$50/day"], ["$50/day"], ["$5/day"],
        ]  # fmt: skip
        assert [found.at(now).changes_at for now in (299, 300, 500)] == [300, 500, FOREVER]


def test_of_the_runs_own_limits_on_one_pool_the_smallest_holds() -> None:
    """A run that goes on inside itself, under the same id, keeps the limit that it has around it."""
    run = {"run": "job-7"}
    inner = [(Limit("$100/run", run="job-7"), run), (Limit("$3/request", run="job-7"), run)]
    outer = [(Limit("$2/run", run="job-7"), run), (Limit("$9/request", run="job-7"), run)]
    for own in (inner + outer, outer + inner):
        found = policy().matches(run, [run, run], own)
        assert sorted(each.text for each in found) == [
            "run=job-7 $2/run", "run=job-7 $3/request", "run=job-7 $9/request",
        ]  # fmt: skip
    over = policy(stored=[Limit("$500/run", run="job-7").set_in("store", 3)]).matches(run, [run], outer[:1])
    assert [each.text for each in over] == ["run=job-7 $500/run"]  # whoever operates it has the last word


# Which pools.


def test_each_value_has_a_pool_of_its_own() -> None:
    found = policy(Limit("$5/day", per="user"))
    ids = [pools(found, user=id)[0] for id in IDS]
    assert len(set(ids)) == len(IDS)
    assert pools(found, user="alice", agent="x", run="y") == pools(found, user="alice")


def test_no_id_is_nobody() -> None:
    """Calls without the attribute share one pool, which no id can collide with."""
    found = policy(Limit("$5/day", per="user"))
    (nobody,) = found.matches({}, [], [])
    assert nobody.subject == {"user": None}
    assert nobody.pool not in {pools(found, user=id)[0] for id in IDS}
    assert pools(found) == pools(found, agent="x")


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_two_ids_share_a_pool(one: str, two: str) -> None:
    limit = Limit("$5/day", per="user")
    assert (match(limit, {"user": one}).pool == match(limit, {"user": two}).pool) == (one == two)
    assert match(limit, {"user": one}).pool != match(limit, {}).pool


def test_what_a_pool_is_of() -> None:
    """Two limits share a pool only if they have one identity; amount and zone do not matter."""
    scope = {"user": "alice", "team": "x", "run": "r"}
    limits = [Limit(text) for text in (
        "$5/day", "$5/week", "5 tokens/day", "5 requests/day", "5 input tokens/day", "per=user $5/day",
        "user=alice $5/day",
        "per=team $5/day", "team=x $5/day", "team=x per=user $5/day", "user=alice per=team $5/day",
        "user=alice team=x $5/day",
        "$5/run", "per=user $5/run", "$5/lifetime", "$5/1d rolling", "$5/2d rolling")]  # fmt: skip
    limits.append(Limit("$5/day", mode="shadow"))
    ids = [match(limit, scope).pool for limit in limits]
    assert len(set(ids)) == len(limits)
    assert match(Limit("$6/day", tz="Europe/Berlin", starts=6), {}).pool == match(Limit("$5/day"), {}).pool
    assert match(Limit("$5/24h rolling"), {}).pool == match(Limit("$5/1d rolling"), {}).pool
    for limit in limits:
        found = match(limit, scope)
        assert read_name(found.name) == (limit.identity, dict(found.subject))
        assert found.pool == pool_id(found.name)
        assert len(found.pool or "") == 16


# Caps and runs.


def test_a_cap_has_no_pool() -> None:
    (found,) = policy(Limit("$0.25/request", user="alice")).matches({"user": "alice"}, [], [])
    assert found.pool is None
    (draw,) = policy().draws([found], AMOUNTS, 5)
    assert (draw.pool, draw.limit, draw.amount) == (None, 25 * 10**7, 10)


def test_a_run_limit() -> None:
    found = policy(Limit("$2/run"), Limit("$1/run", per="user"))
    assert pools(found, user="alice") == [None, None]  # outside a run each call is its own
    one = found.matches({"user": "alice", "run": "r1"}, [{"user": "alice", "run": "r1"}], [])
    two = found.matches({"user": "alice", "run": "r2"}, [{"user": "alice", "run": "r2"}], [])
    assert len({m.pool for m in (*one, *two)} - {None}) == 4
    assert one[0].subject == {"run": "r1"}


def test_run_limits_in_nested_runs() -> None:
    """A call draws on the pool of every run it is in, each with that run's own attributes."""
    found = policy(Limit("$2/run"), Limit("$1/run", agent="inner"), Limit("$5/day", per="agent"))
    outer, inner = {"agent": "outer", "run": "r1"}, {"agent": "inner", "run": "r2"}
    matches = found.matches(inner, [inner, outer], [])
    assert [(str(m.limit), m.subject) for m in matches] == [
        ("per=agent $5/day", {"agent": "inner"}),
        ("$2/run", {"run": "r2"}),
        ("agent=inner $1/run", {"agent": "inner", "run": "r2"}),
        ("$2/run", {"run": "r1"}),
    ]


def test_a_run_limit_per_subject_in_nested_runs_of_other_subjects() -> None:
    found = policy(Limit("$2/run", per="user"))
    outer, inner = {"user": "alice", "run": "r1"}, {"user": "bob", "run": "r2"}
    subjects = [m.subject for m in found.matches(inner, [inner, outer], [])]
    assert subjects == [{"user": "bob", "run": "r2"}, {"user": "alice", "run": "r1"}]


def test_a_pool_is_drawn_on_once() -> None:
    found = policy(Limit("$9/day"))
    scope = {"run": "r1"}
    own = Limit("$2/run", run="r1")
    twice = found.matches(scope, [scope, scope], [(own, scope), (own, scope)])
    assert [str(m.limit) for m in twice] == ["$9/day", "run=r1 $2/run"]
    caps = found.matches(
        scope, [scope], [(Limit("$1/request", run="r1"), scope), (Limit("$2/request", run="r1"), scope)]
    )
    assert len(caps) == 3  # caps are about the request: each is asked


def test_a_policy_is_reused() -> None:
    """What was matched for one call is not another's."""
    found = policy(Limit("$5/day", per="user"), Limit("$1/day", user="bob"), Limit("$1/run"))
    first = found.matches({"user": "alice"}, [], [])
    assert found.matches({"user": "bob"}, [], []) != first
    in_a_run = found.matches({"user": "alice", "run": "r"}, [{"user": "alice", "run": "r"}], [])
    assert in_a_run[0].pool == first[0].pool
    assert found.matches({"user": "alice"}, [], []) == first


# Draws.


def test_draws() -> None:
    found = policy(Limit("$5/day").set_at(77), Limit("9 tokens/day"), Limit("9 input tokens/day"),
    Limit("9 output tokens/day"),
                   Limit("9 requests/lifetime"))  # fmt: skip
    draws = found.draws(found.matches({}, [], []), AMOUNTS, 3 * DAY + 5)
    assert [draw.amount for draw in draws] == list(AMOUNTS)
    assert [draw.unit for draw in draws] == [0, 1, 2, 3, 4]
    assert {(draw.start, draw.end) for draw in draws[:4]} == {(3 * DAY, 4 * DAY)}
    assert (draws[0].limit, draws[0].since) == (5 * 10**9, 77)
    # The bounds that are kept for the next call are those of its instant.
    assert found.draws(found.matches({}, [], []), AMOUNTS, 4 * DAY)[0].start == 4 * DAY
    assert found.draws(found.matches({}, [], []), AMOUNTS, 3 * DAY)[0].start == 3 * DAY


def test_a_call_draws_one_slot_whatever_it_costs() -> None:
    found = policy(Limit("8 concurrent"))
    for amounts in (AMOUNTS, (0, None, None, None, 0)):
        (draw,) = found.draws(found.matches({}, [], []), amounts, 3 * DAY + 5)
        assert (draw.unit, draw.limit, draw.amount, draw.start, draw.end) == (5, 8, 1, 0, FOREVER)


def test_zones_have_bounds_of_their_own() -> None:
    found = policy(Limit("$5/day", user="a", tz="Europe/Berlin"), Limit("$5/day", team="x"))
    one, two = found.draws(found.matches({"user": "a", "team": "x"}, [], []), AMOUNTS, 200 * DAY)
    assert (one.start, two.start) == (200 * DAY - 3600 * 10**6, 200 * DAY)


def test_tokens_that_nobody_said() -> None:
    found = policy(Limit("9 tokens/day"))
    with pytest.raises(ConfigError, match="tokens="):
        found.draws(found.matches({}, [], []), (10, None, None, None, 1), 5)


def test_windows_that_begin_elsewhere_have_bounds_of_their_own() -> None:
    found = policy(Limit("$5/day", user="a", starts=6), Limit("$5/day", team="x"))
    one, two = found.draws(found.matches({"user": "a", "team": "x"}), AMOUNTS, 200 * DAY + 5)
    assert (one.start, two.start) == (199 * DAY + 6 * 3600 * SECOND, 200 * DAY)


def test_a_rolling_limit_draws_on_its_span() -> None:
    found = policy(Limit("$20/7d rolling", per="session").set_at(77))
    (draw,) = found.draws(found.matches({"session": "s"}), AMOUNTS, 200 * DAY)
    assert (draw.span, draw.start, draw.end, draw.since, draw.limit) == (7 * DAY, 0, FOREVER, 77, 20 * 10**9)
    assert Window.parse(json.loads(draw.name)[1]).span == draw.span  # whoever reads the pool's name knows as much


def test_shadow_and_rollover_go_with_the_draw() -> None:
    limits = [Limit("$5/day", mode="shadow"), Limit("$5/day", rollover="$2"), Limit("$1/request", mode="shadow")]
    found = policy(*limits)
    draws = found.draws(found.matches({}), AMOUNTS, 5)
    assert [(draw.shadow, draw.rollover, draw.pool is None) for draw in draws] == [
        (True, 0, False), (False, 2 * 10**9, False), (True, 0, True),
    ]  # fmt: skip
    everything = Policy(7, (), limits, shadow=True)
    run = (Limit("$2/run", run="r"), {"run": "r"})
    matches = everything.matches({"run": "r"}, [{"run": "r"}], [run])
    draws = everything.draws(matches, AMOUNTS, 5)
    assert [draw.shadow for draw in draws] == [True] * 4
    assert [draw.pool for draw in draws[:3]] == [draw.pool for draw in found.draws(found.matches({}), AMOUNTS, 5)]


def test_a_shadow_limit_replaces_only_shadow_ones() -> None:
    found = policy(Limit("$5/day", per="user"), Limit("$9/day", per="user", mode="shadow"),
                   Limit("$1/day", user="alice", mode="shadow"))  # fmt: skip
    assert applied(found, user="alice") == ["per=user $5/day", "user=alice $1/day"]


# What was set for a time.


def test_a_limit_of_the_code_ends() -> None:
    found = policy(Limit("$9/day"), Limit("$5/day", user="alice", until=at_zone(100)))
    assert (applied(found, user="alice"), found.changes_at) == (["$9/day", "user=alice $5/day"], 100)
    assert found.at(99) is found
    assert (applied(found.at(100), user="alice"), found.at(100).changes_at) == (["$9/day"], FOREVER)


def stored(*rows: tuple[str, str]) -> Policy:
    return Policy(7, [("limit", *row) for row in rows], ())


def test_what_held_before_holds_again() -> None:
    base = limit_body(Limit("$5/day").set_at(1))
    friday = limit_body(Limit("$50/day", until=at_zone(500)).set_at(2), base[1])
    wednesday = limit_body(Limit("$70/day", until=at_zone(300)).set_at(3), friday[1])
    found = stored(wednesday)
    assert found.changes_at == 300
    assert [str(found.at(now).limits[0]) for now in (0, 299, 300, 499, 500, 10**9)] == [
        "$70/day", "$70/day", "$50/day", "$50/day", "$5/day", "$5/day",
    ]  # fmt: skip
    assert [found.at(now).changes_at for now in (299, 300, 500)] == [300, 500, FOREVER]
    assert found.at(500).version == found.version
    # What would be over by then is not kept.
    later = limit_body(Limit("$90/day", until=at_zone(900)).set_at(4), wednesday[1])
    assert json.loads(later[1])["then"] == json.loads(base[1])
    assert [str(stored(later).at(now).limits[0]) for now in (300, 500, 899, 900)] == ["$90/day"] * 3 + ["$5/day"]
    # A limit for good keeps nothing.
    assert "then" not in json.loads(limit_body(Limit("$1/day").set_at(5), friday[1])[1])


def test_the_code_s_limit_holds_after_the_store_s() -> None:
    row = limit_body(Limit("$50/day", until=at_zone(500)).set_at(2))
    found = Policy(7, [("limit", *row)], [Limit("$5/day")])
    assert [str(found.at(now).limits) for now in (499, 500)] == [
        "(Limit('$50/day', until='1970-01-01T00:00:00.000500+00:00'),)", "(Limit('$5/day'),)",
    ]  # fmt: skip
    assert Policy(7, [("limit", *row)], (), now=500).limits == ()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), max_size=6), st.integers(0, 40))
def test_temporary_limits_by_brute_force(changes: list[tuple[int, int]], now: int) -> None:
    """Each is set while the ones before may still hold; at any instant the last one set that has not ended does."""
    body = limit_body(Limit("$100/day").set_at(1))
    for amount, until in changes:
        body = limit_body(Limit(f"${amount}/day", until=at_zone(until)).set_at(1), body[1])
    live = [f"${amount}/day" for amount, until in changes if until > now]
    expected = live[-1] if live else "$100/day"
    (held,) = Policy(1, [("limit", *body)], (), now=now).limits
    assert str(held) == expected
    assert str(stored(body).at(now).limits[0]) == expected


# Adjustments.


def adjusted(limit: Limit, *raises: tuple[int, int, int], **scope: str) -> tuple[Policy, list[Match]]:
    pool = match(limit, scope).pool or ""
    rows = [("adjust", str(n), raise_body(pool, limit, match(limit, scope).subject, *each))
            for n, each in enumerate(raises)]  # fmt: skip
    found = Policy(7, rows, [limit, Limit("$1/year")])
    return found, found.matches(scope)


def test_adjustments_add_up_while_they_hold() -> None:
    found, matches = adjusted(Limit("$5/day", per="user"), (10, 0, DAY), (3, 5, DAY), user="alice")
    for now, more in ((0, 10), (4, 10), (5, 13), (DAY - 1, 13), (DAY, 0)):
        assert [draw.limit for draw in found.draws(matches, AMOUNTS, now)] == [5 * 10**9 + more, 10**9]
        assert found.more(matches[0].pool or "", now) == more
    bob = found.draws(found.matches({"user": "bob"}), AMOUNTS, 5)
    assert [draw.limit for draw in bob] == [5 * 10**9, 10**9]


def test_an_adjusted_limit_stays_exact() -> None:
    found, matches = adjusted(Limit("$9007199/day"), (10**15, 0, DAY))
    assert found.draws(matches, AMOUNTS, 5)[0].limit == MAX


def test_adjustments_end() -> None:
    limit = Limit("$5/day")
    found, _ = adjusted(limit, (10, 0, DAY), (3, 0, 2 * DAY))
    assert (found.ended, found.at(DAY)) == ([], found)
    later = Policy(7, found._rows, [limit], now=DAY)
    assert (later.ended, later.draws(later.matches({}), AMOUNTS, DAY)[0].limit) == (["0"], 5 * 10**9 + 3)


# Freezes.


def test_freezes() -> None:
    found = policy(freezes=[{"user": "alice"}, {"team": "x", "agent": "y"}])
    assert found.frozen([{"user": "alice", "team": "z"}]) == {"user": "alice"}
    assert found.frozen([{"team": "x"}]) is None
    assert found.frozen([{"team": "x", "agent": "y", "user": "bob"}]) == {"team": "x", "agent": "y"}
    assert found.frozen([{"user": "bob"}, {"user": "alice"}]) == {"user": "alice"}  # a run around it
    assert found.frozen([{}]) is None
    assert policy(freezes=[{}]).frozen([{}]) == {}


def test_rows_are_read_as_they_were_written() -> None:
    limit = Limit(
        "$5/day", user="{x} 'y\"", per="agent", tz="Asia/Kathmandu", starts=6, mode="shadow", rollover="$2", warn="80%",
        until=at_zone(10**15),
    ).set_in("store", 123)  # fmt: skip
    (again,) = policy(stored=[limit]).limits
    assert (again, again.created_us, again.source) == (limit, 123, "store")


def test_a_row_of_a_newer_version_is_refused_not_guessed() -> None:
    identity, body = limit_body(Limit("$5/day", user="alice"))
    newer = dumps({**json.loads(body), "burst": "$2"})
    with pytest.raises(ConfigError, match=r"alice.*'burst'.*upgrade"):
        Policy(7, [("limit", identity, newer)], ())
    assert Policy(7, [("chart", "x", "y")], ()).limits == ()  # a kind of row that limits do not depend on


def test_a_fence_is_passed_on() -> None:
    assert policy().fenced is None
    assert Policy(7, [("fence", "x", '{"seq":7}')], ()).fenced == '{"seq":7}'


def test_the_next_policy_reads_only_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("limit", *limit_body(Limit("$5/day", user=f"u{n}").set_at(n + 1))) for n in range(100)]
    first = Policy(1, rows, ())
    read = []
    monkeypatch.setattr("budget.policy.read_limit", lambda body: read.append(body) or read_limit(body))
    changed = limit_body(Limit("$6/day", user="u7").set_at(200))
    second = Policy(2, [*rows[:7], ("limit", *changed), *rows[8:]], (), before=first)
    assert read == [changed[1]]
    assert second.limits[:7] == first.limits[:7]
    fewer = Policy(3, [*rows[:7], *rows[8:50]], (), before=second)
    assert (fewer.limits, read) == (first.limits[:7] + first.limits[8:50], [changed[1]])


def test_many_limits_are_found_at_once() -> None:
    found = policy(*(Limit("$5/day", user=f"u{n}") for n in range(2000)), Limit("$1/day", per="user"))
    assert applied(found, user="u777") == ["user=u777 $5/day"]
    assert applied(found, user="other") == ["per=user $1/day"]
    assert isinstance(found.matches({"user": "u7"}, [], [])[0], Match)
