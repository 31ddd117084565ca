"""The line language of the scenarios, and what runs it on a store.

A scenario begins with `== title`. Each line is an event and, after `->`, the outcome it must have. Amounts are plain
units (nano-dollars), times are seconds; both may be written as sums with MAX (2^53 - 1). `#` begins a comment.

    pool NAME LIMIT [unit=usd] [START..END] [since=T]      how callers see a pool from here on; END may be "inf"
        [span=S] [rollover=N] [shadow]                     rolling over S seconds; what a window takes over; only counts
        [raised=N]                                         how much of the limit only the present window has
    cap NAME LIMIT [unit=usd]                              a draw on no pool: about one request alone
    [t=T] reserve ID AMOUNT [tokens=N] POOL ... [args=X] [takes=N,...] [lease=60] [version=V] [frozen]
    [t=T] reconcile ID AMOUNT [POOL ... made=T]            with pools: books also what the store does not know
    [t=T] refund ID
    [t=T] record ID AMOUNT [tokens=N] POOL ... [args=X] [version=V] [kind=K] [of=ID] [frees=N]
    [t=T] renew ID lease=S
    [t=T] sweep
    [t=T] limit IDENTITY BODY | freeze IDENTITY BODY       writes a row of the policy; BODY "none" removes it
    [t=T] policy                                           loads it
    [t=T] status POOL ...                                  -> NAME SPENT+RESERVED ... (or NAME none, NAME over ...)
    [t=T] look POOL ...                                    the same without expiring anything
    [t=T] window POOL                                      -> START..END SPENT+RESERVED [carry N], as status shows it
    [t=T] rebuild [seq=N] POOL@START=SPENT+RESERVED[/CARRY] ...
                                                           sets buckets, if the account is at N (default: it is)
    bucket POOL START                                      -> SPENT+RESERVED, also of a window that is over
    slice ID                                               -> what it has given back: money, tokens, requests
    last [N]                                               -> the kinds and money of the last N entries
    postings                                               -> POOL@START=SPENT+RESERVED ... of the last entry
    detail NAME                                            -> what the last entry says under that name
    audit                                                  -> ok, or ok saturated N

A reserve that shadow pools would have refused answers `reserved shadow POOL ...`; one that a rolling pool refuses,
`refused POOL@T`, with the instant from which it would fit.
A reserve and a record count one request; a reserve takes one slot of each pool of unit=concurrent. Beside the outcome,
every event is held to the laws that need no table: what is not carried out changes no counter and writes at most one
entry (a refusal), and the books balance at the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from conftest import books

from budget.commands import (
    Bucket,
    ChangePolicy,
    Command,
    Draw,
    LoadPolicy,
    Outcome,
    Rebuild,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reserve,
    Status,
    Sweep,
)
from budget.ledger import Entry
from budget.limits import CONCURRENT, UNITS
from budget.money import MAX
from budget.stores.base import Store
from budget.window import FOREVER

FOLDER = Path(__file__).parent / "scenarios"
NO_EFFECT = {
    "refused",
    "conflict",
    "repeated",
    "stale_policy",
    "stale_window",
    "clock",
    "unknown",
    "ended",
    "unchanged",
    "moved",
    "rewound",
}
_OPTIONS = {"takes", "tokens", "args", "lease", "version", "made", "kind", "of", "frees"}
_TERM = re.compile(r"([+-]?)(\d+|MAX)")


def scenarios() -> dict[str, list[tuple[int, str]]]:
    """Every scenario of every file: its name, and its lines with their numbers."""
    found: dict[str, list[tuple[int, str]]] = {}
    for path in sorted(FOLDER.glob("*.txt")):
        lines: list[tuple[int, str]] = []
        for number, raw in enumerate(path.read_text().splitlines(), 1):
            line = raw.partition("#")[0].strip()
            if line.startswith("=="):
                lines = found.setdefault(f"{path.stem}: {line.strip('= ')}", [])
            elif line:
                lines.append((number, line))
    return found


def number(text: str) -> int:
    """Read "5", "MAX", "MAX-1", "10+1"."""
    terms = _TERM.findall(text)
    assert terms, f"not a number: {text!r}"
    assert "".join(sign + value for sign, value in terms) == text, f"not a number: {text!r}"
    values = [(-1 if sign == "-" else 1) * (MAX if value == "MAX" else int(value)) for sign, value in terms]
    return sum(values)


def micros(text: str) -> int:
    return FOREVER if text == "inf" else number(text) * 1_000_000


def seconds(micros: int) -> str:
    return "inf" if micros == FOREVER else f"{micros / 1_000_000:.6f}".rstrip("0").rstrip(".")


@dataclass
class Runner:
    """Carries out the lines of one scenario on one store."""

    store: Store
    now: int = 0
    pools: dict[str, Draw] = field(default_factory=dict)
    version: int = 0
    rebuilt: bool = False

    def run(self, lines: list[tuple[int, str]]) -> None:
        for at, line in lines:
            event, arrow, expected = line.partition("->")
            words = event.split()
            if words[0].startswith("t="):
                self.now = micros(words.pop(0)[2:])
            found = getattr(self, f"do_{words[0]}")(words[1:])
            assert found == (expected.strip() if arrow else None), f"line {at}: {line}"
        if not self.rebuilt:  # to counters that no entry explains
            assert books(self.store).faults == []

    # Declarations.

    def do_pool(self, words: list[str]) -> None:
        name, limit, *rest = words
        options = {key: value for key, sep, value in (word.partition("=") for word in rest) if sep}
        bounds = [word for word in rest if ".." in word]
        start, end = (micros(part) for part in (bounds[0] if bounds else "0..inf").split(".."))
        unit = UNITS.index(options.get("unit", "usd"))
        span = micros(options.get("span", "0"))
        full = f'["{name}","{options["span"]}s rolling"]' if span else name  # by which an audit knows it
        self.pools[name] = Draw(
            name, full, unit, number(limit), 0, start, end, micros(options.get("since", "0")), f"limit {name}", span,
            "shadow" in rest, number(options.get("rollover", "0")), number(options.get("raised", "0")),
        )  # fmt: skip

    def do_cap(self, words: list[str]) -> None:
        self.do_pool(words)
        self.pools[words[0]] = self.pools[words[0]]._replace(pool=None)

    # Events.

    def do_reserve(self, words: list[str]) -> str:
        id, amounts, draws, options = self._call(words)
        lease = micros(options.get("lease", "60"))
        digest = options.get("args", f"{amounts}")
        frozen = "{}" if "frozen" in words else None
        version = int(options.get("version", self.version))
        return self._do(Reserve(id, digest, amounts, draws, version, lease, {"user": "u"}, {}, frozen))

    def do_reconcile(self, words: list[str]) -> str:
        id, amounts, draws, options = self._call(words)
        if "made" not in options:
            assert not draws, "pools need made="
            return self._do(Reconcile(id, (amounts[0], None, None, None, None), {}))
        return self._do(Reconcile(id, amounts, {}, draws, {"user": "u"}, micros(options["made"])))

    def do_refund(self, words: list[str]) -> str:
        return self._do(Refund(words[0]))

    def do_record(self, words: list[str]) -> str:
        id, amounts, draws, options = self._call(words)
        digest = options.get("args", f"{amounts}")
        version = int(options.get("version", self.version))
        frees = (number(options["frees"]), 0, 0, 0, 0) if "frees" in options else None
        return self._do(Record(id, digest, amounts, draws, version, {"user": "u"}, {}, options.get("kind", "recorded"),
                               options.get("of"), frees))  # fmt: skip

    def do_renew(self, words: list[str]) -> str:
        return self._do(Renew(words[0], micros(words[1].removeprefix("lease="))))

    def do_rebuild(self, words: list[str]) -> str:
        seq = self.store.last("default")
        if words[0].startswith("seq="):
            seq = int(words.pop(0)[4:])
        stored, buckets, names = self.store.snapshot("default").buckets, {}, {}
        for word in words:
            place, _, figures = word.partition("=")
            pool, _, at = place.partition("@")
            figures, _, carry = figures.partition("/")
            spent, reserved = map(number, figures.split("+"))
            draw, start = self.pools[pool], micros(at)
            end = start + -(-draw.span // 60) if draw.span else draw.end
            known = stored.get((pool, start), Bucket(start, end, 0, 0, 0, 0, draw.span))
            buckets[pool, start] = known._replace(spent=spent, reserved=reserved, carry=number(carry or "0"))
            names[pool] = draw.name
        self.rebuilt = True
        return self._call_store(Rebuild(seq, buckets, names)).status

    def do_sweep(self, words: list[str]) -> str:
        return f"swept {self._call_store(Sweep()).count}"

    def do_limit(self, words: list[str]) -> str:
        return self._change("limit", *words)

    def do_freeze(self, words: list[str]) -> str:
        return self._change("freeze", *words)

    def do_policy(self, words: list[str]) -> str:
        outcome = self._call_store(LoadPolicy())
        self.version = outcome.version
        return " ".join([f"version {outcome.version}", *(f"{kind} {id} {body}" for kind, id, body in outcome.rows)])

    def do_look(self, words: list[str]) -> str:
        seq = len(self._entries())
        found = self.do_status(words, sweep=False)
        assert len(self._entries()) == seq, "a look wrote"
        return found

    def do_status(self, words: list[str], sweep: bool = True) -> str:
        outcome = self._call_store(Status(words, sweep))

        def told(bucket: Bucket | None) -> str:
            if bucket is None:
                return "none"
            return f"{'over ' if outcome.now >= bucket.end else ''}{bucket.spent}+{bucket.reserved}"

        return " ".join(f"{name} {told(bucket)}" for name, bucket in zip(words, outcome.buckets, strict=True))

    def do_window(self, words: list[str]) -> str:
        (bucket,) = self._call_store(Status(words)).buckets
        if bucket is None:
            return "none"
        carry = f" carry {bucket.carry}" if bucket.carry else ""
        return f"{seconds(bucket.start)}..{seconds(bucket.end)} {bucket.spent}+{bucket.reserved}{carry}"

    def do_slice(self, words: list[str]) -> str:
        (found,) = [known for known in self.store.reservations("default") if known.id == words[0]]
        return "nothing" if found.charged is None else " ".join(str(found.charged[unit]) for unit in (0, 1, 4))

    def do_postings(self, words: list[str]) -> str:
        found = self._entries()[-1].postings
        return " ".join(f"{p.pool}@{seconds(p.start)}={p.spent}{p.reserved:+}" for p in found)

    def do_detail(self, words: list[str]) -> str:
        found = self._entries()[-1].detail.get(words[0])
        if isinstance(found, list):  # a server tells pools first, and then caps
            return " ".join(sorted(f"{row['limit']}/{row['pool']}" for row in found))
        return str(found)

    def do_bucket(self, words: list[str]) -> str:
        bucket = self.store.snapshot("default").buckets.get((words[0], micros(words[1])))
        return "none" if bucket is None else f"{bucket.spent}+{bucket.reserved}"

    def do_last(self, words: list[str]) -> str:
        entries = self._entries()[-int(words[0] if words else 1) :]
        return ", ".join(f"{entry.kind} {entry.amounts[0]}" for entry in entries)

    def do_audit(self, words: list[str]) -> str:
        found = books(self.store)
        assert found.faults == []
        return f"ok saturated {len(found.saturated)}" if found.saturated else "ok"

    # How.

    def _call(self, words: list[str]) -> tuple[str, tuple[int, ...], list[Draw], dict[str, str]]:
        id, usd, *rest = words
        options = {key: value for key, sep, value in (word.partition("=") for word in rest) if sep}
        tokens = number(options.get("tokens", "0"))
        amounts = (number(usd), tokens, tokens, 0, 1)
        draws = [self.pools[word] for word in rest if "=" not in word and word != "frozen"]
        assert all(option in _OPTIONS for option in options), f"unknown option: {options}"
        asked = [1 if draw.unit == CONCURRENT else amounts[draw.unit] for draw in draws]
        if "takes" in options:  # of each pool, and not what the request asks for
            asked = [number(each) for each in options["takes"].split(",")]
        return id, amounts, [draw._replace(amount=n) for draw, n in zip(draws, asked, strict=True)], options

    def _change(self, kind: str, identity: str, body: str) -> str:
        return self._do(ChangePolicy(kind, identity, None if body == "none" else body, {}))

    def _do(self, command: Command) -> str:
        outcome = self._call_store(command)
        status = outcome.status
        if status == "refused":
            assert isinstance(command, Reserve)
            pairs = [(command.draws[i], outcome.buckets[i]) for i in outcome.refused]
            return " ".join(["refused", *(self._refusal(draw, bucket) for draw, bucket in pairs)])
        if outcome.shadowed:
            assert isinstance(command, Reserve)
            return " ".join([status, "shadow", *(command.draws[i].pool or "cap" for i in outcome.shadowed)])
        known = outcome.reservation
        return f"{status} {known.state}" if status in ("repeated", "conflict", "ended") and known else status

    @staticmethod
    def _refusal(draw: Draw, bucket: Bucket | None) -> str:
        assert bucket is not None
        return f"{draw.pool}@{seconds(bucket.end)}" if draw.span else draw.name

    def _call_store(self, command: Command) -> Outcome:
        before, seq = self._counters(), len(self._entries())
        outcome = self.store.call("default", command, 10.0, self.now)
        added = self._entries()[seq:]
        assert outcome.seq == self.store.last("default")
        if outcome.status in NO_EFFECT and not any(entry.kind == "expired" for entry in added):
            assert self._counters() == before, f"{outcome.status} moved a counter"
            assert [entry.kind for entry in added] == (["refused"] if outcome.status == "refused" else [])
        if outcome.status in ("reserved", "recorded", "reconciled") and hasattr(command, "draws"):
            self._check_answer(outcome)
        return outcome

    def _check_answer(self, outcome: Outcome) -> None:
        """The buckets of an answer are those that are stored."""
        stored = self.store.snapshot("default").buckets
        assert outcome.reservation is not None
        shares = [share.pool for share in outcome.reservation.shares]
        shown = [b for b in outcome.buckets if b is not None]
        for share, bucket in zip(outcome.reservation.shares, shown if len(shown) == len(shares) else (), strict=False):
            if not self.pools[share.pool].span:
                assert stored[share.pool, share.start] == bucket

    def _counters(self) -> dict[tuple[str, int], tuple[int, int]]:
        found = self.store.snapshot("default").buckets
        return {key: (bucket.spent, bucket.reserved) for key, bucket in found.items()}

    def _entries(self) -> list[Entry]:
        return list(self.store.entries("default", 0))
