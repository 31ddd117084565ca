"""One cell: a call is made and ends, and what provider, ledger and pools say of it must agree.

The provider and the HTTP clients are shared by all cells; each cell has a budget of its own, so that its ledger holds
nothing else.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, aclosing, closing, contextmanager
from contextvars import copy_context
from typing import Any, Self

import anthropic
import httpx2
import openai

from budget import Budget, BudgetError, Limit
from budget.demo.provider import Provider, Reply, Request, Seen
from budget.ledger import Entry
from budget.money import parse_usd, to_decimal

from ..conftest import OPENAI_HTTP
from .faults import FAULTS, LEAVE, PART, REFUND, RESERVED, STALL, USAGE, Fault, expected, missing
from .ways import APIS, ASYNC, STREAMS, SYNC, Api

__all__ = ["KINDS", "ROWS", "World"]

KINDS = ("sync", "async")
ROWS = [(api, kind, way) for api in APIS for kind in KINDS for way in SYNC]
_LIMITS = ["$100/day", Limit("$50/day", per="user"), "9M tokens/day", "1000 requests/day", "8 concurrent"]
_ENDS = ("reconciled", "refunded")
# Where a stream is dropped, the generators of the HTTP library below it may close one another at once.
_RACE = "aclose(): asynchronous generator is already running"
_SOON = 60.0  # seconds that something may take that is waited for


class Disagreement(AssertionError):
    """Two accounts of the same call differ."""


def must(held: object, what: str) -> None:
    """Raise what is wrong, unless it holds."""
    if not held:
        raise Disagreement(what)


class World:
    """A provider and clients of it, while the `with` block runs."""

    def __enter__(self) -> Self:
        self._ends = ExitStack()
        self._provider = self._ends.enter_context(Provider(script=_script))
        self._runner = self._ends.enter_context(asyncio.Runner())
        self._clients: dict[tuple[Any, str], Any] = {}
        for sdk, path in ((anthropic, ""), (openai, "/v1")):
            for kind in KINDS:
                self._clients[sdk, kind] = self._make(sdk, kind, self._provider.url + path)
        return self

    def __exit__(self, *exc: object) -> None:
        self._ends.close()

    def _make(self, sdk: Any, kind: str, url: str) -> Any:
        names = ("Anthropic", "OpenAI") if kind == "sync" else ("AsyncAnthropic", "AsyncOpenAI")
        http = sdk.DefaultHttpxClient if kind == "sync" else sdk.DefaultAsyncHttpxClient
        made = getattr(sdk, names[sdk is openai])(base_url=url, api_key="key", http_client=http(verify=False))
        self._ends.callback(made.close if kind == "sync" else lambda: self._runner.run(made.close()))
        return made

    def row(self, api: str, kind: str, way: str) -> dict[str, str]:
        """Return what each cell of a row found: how the call was booked, "n/a", or "FAILED: ..."."""
        found = {}
        for name in FAULTS:
            if missing(api, way, name) is not None:
                found[name] = "n/a"
                continue
            try:
                found[name] = self.cell(api, kind, way, name)
            except AssertionError as wrong:
                found[name] = f"FAILED: {wrong}"
        return found

    def cell(self, api: str, kind: str, way: str, name: str) -> str:
        """Carry out one cell; return how its calls were booked.

        Raises:
            AssertionError: Provider, ledger and pools do not agree.
        """
        fault, known = FAULTS[name], APIS[api]
        self._provider.clear()
        with Budget("memory://", limits=_LIMITS) as budget:
            client = budget.wrap(self._clients[known.sdk, kind])
            client = client.with_options(max_retries=max(0, len(fault.statuses) - 1), timeout=_patience(known, fault))
            request = {**known.request, "extra_headers": {"x-demo": _reply(way, fault)}}
            with budget.run("$5", user="alice", max_calls=20) as run:
                call = self._sync if kind == "sync" else self._async
                text, error = call(SYNC[way] if kind == "sync" else ASYNC[way], known, client, request, way, fault)
            self._provider.wait()
            del client
            calm = fault.statuses[-1:] == (200,) and not fault.cancel
            _check_error(error, calm=calm and name not in ("cut", "stalled", "no usage"))
            if budget.engine.store.reservations("default"):
                error = None
                gc.collect()  # an exception's traceback holds the frames of the call, and with them its stream
            calls = list(_calls(self._provider.requests))
            _check_log(calls, way, fault)
            costs = expected(way, fault)
            spent = _check_ledger(budget, calls, costs, text, known)
            _check_pools(budget, run, spent)
        return costs

    # Making the call.

    def _sync(
        self, made: Any, api: Api, client: Any, request: Any, way: str, fault: Fault
    ) -> tuple[str, BaseException | None]:
        text: list[str] = []
        try:
            with self._interrupted(way, fault), closing(made(api, client, request)) as events:
                for piece in events:
                    text.append(piece)
                    if fault.leave and _enough(text, way):
                        break
        except (Exception, KeyboardInterrupt) as error:
            return "".join(text), error
        return "".join(text), None

    def _async(
        self, made: Any, api: Api, client: Any, request: Any, way: str, fault: Fault
    ) -> tuple[str, BaseException | None]:
        text: list[str] = []
        wrong: list[str] = []

        async def consume() -> None:
            async with aclosing(made(api, client, request)) as events:
                async for piece in events:
                    text.append(piece)
                    if fault.leave and _enough(text, way):
                        break

        async def main() -> BaseException | None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, said: wrong.append(str(said)))
            task = asyncio.ensure_future(consume())
            if fault.cancel:
                until = time.monotonic() + _SOON
                while not (self._under_way(way) and (way not in STREAMS or "".join(text))):
                    must(time.monotonic() < until, "the call is not under way")
                    await asyncio.sleep(0.002)
                task.cancel()
            (found,) = await asyncio.gather(task, return_exceptions=True)
            if fault.leave:
                await asyncio.sleep(0.02)  # an event loop closes what was dropped in its next turns
            return found

        found = self._runner.run(main(), context=copy_context())
        wrong = [said for said in wrong if _RACE not in said]
        must(not wrong, f"the event loop says: {wrong}")
        return "".join(text), found

    def _under_way(self, way: str) -> bool:
        """Whether the provider has sent all that it will send."""
        seen = self._provider.requests
        return bool(seen) and (way not in STREAMS or seen[-1].events_sent == STALL)

    @contextmanager
    def _interrupted(self, way: str, fault: Fault) -> Iterator[None]:
        """Have Ctrl-C pressed while a call waits for what does not come."""
        if not fault.cancel:
            yield
            return
        main, until = threading.get_ident(), time.monotonic() + _SOON

        def press() -> None:
            while not self._under_way(way) and time.monotonic() < until:
                time.sleep(0.002)
            time.sleep(0.03)  # it reads what was sent, and waits for more
            signal.pthread_kill(main, signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        finger = threading.Thread(target=press)
        finger.start()
        try:
            yield
        finally:
            finger.join()
            signal.signal(signal.SIGINT, before)


def _script(request: Request) -> Reply:
    """Call a tool as long as nothing came back from it."""
    body = request.json
    return Reply(tool=bool(body.get("tools")) and len(body["messages"]) == 1)


def _patience(api: Api, fault: Fault) -> Any:
    http = httpx2 if api.sdk is anthropic else OPENAI_HTTP
    return http.Timeout(30, read=fault.patience)


def _reply(way: str, fault: Fault) -> str:
    return fault.reply if way not in STREAMS or fault.of_stream is None else fault.of_stream


def _enough(text: list[str], way: str) -> bool:
    return sum(map(bool, text)) == LEAVE if way in STREAMS else True


# What must agree.


def _calls(log: list[Seen]) -> Iterator[list[Seen]]:
    """The attempts of each logical call, as the provider saw them."""
    call: list[Seen] = []
    for seen in log:
        if seen.retry_count == 0 and call:
            yield call
            call = []
        call.append(seen)
    if call:
        yield call


def _check_error(error: BaseException | None, *, calm: bool) -> None:
    must(not isinstance(error, BudgetError), f"{error!r} was raised")
    must(error is None if calm else True, f"{error!r} was raised")


def _check_log(calls: list[list[Seen]], way: str, fault: Fault) -> None:
    answered = [tuple(seen.status for seen in call if seen.status is not None) for call in calls]
    wanted = (200,) if way in STREAMS and fault.of_stream is not None else fault.statuses
    whole = way == "tool runner" and wanted[-1:] == (200,) and not fault.leave
    must(answered == [wanted] * (2 if whole else 1), f"the provider answered {answered}")


def _check_ledger(budget: Budget, calls: list[list[Seen]], costs: str, text: str, api: Api) -> list[Entry]:
    """One reservation and one end per logical call, with the money that it must cost; returns the ends."""
    entries = [entry for entry in budget.entries() if entry.reservation is not None]
    begun = [entry for entry in entries if entry.kind == "reserved"]
    ends = [entry for entry in entries if entry.kind in _ENDS]
    must(len(entries) == len(begun) + len(ends), f"the ledger has {[entry.kind for entry in entries]}")
    must(len(begun) == len(calls), f"{len(begun)} reservations for {len(calls)} calls")
    must([e.reservation for e in begun] == [e.reservation for e in ends], "not one end for each reservation")
    for call, reserved, end in zip(calls, begun, ends, strict=True):
        most = parse_usd((reserved.estimate or {})["usd_max"], "usd_max")
        billed = _billed(call[-1].usage or {}, api)
        nanos, said = end.amounts[0], f"{end.kind} {end.usd} {dict(end.detail)}"
        must((end.kind == "refunded") is (costs == REFUND), said)
        must(end.detail.get("estimated", False) is (costs in (RESERVED, PART)), said)
        if costs == REFUND:
            must(end.amounts == (0, 0, 0, 0, 0), said)
        elif costs == USAGE:
            tokens = [(call[-1].usage or {})[name] for name in api.names]
            must(end.amounts == (billed, sum(tokens), *tokens, 1), f"{said}; billed {call[-1].usage}")
        elif costs == RESERVED:
            must(nanos == most, f"{said}; reserved {to_decimal(most)}")
        else:
            least = _billed({**(call[-1].usage or {}), api.names[1]: len(text.split())}, api)
            must(least <= nanos < most, f"{said}; {to_decimal(least)} to less than {to_decimal(most)}")
    return ends


def _billed(usage: Mapping[str, Any], api: Api) -> int:
    """What the provider bills for a usage of its own, nano-dollars."""
    return sum(usage.get(name, 0) * rate for name, rate in zip(api.names, api.rates, strict=True))


def _check_pools(budget: Budget, run: Any, ends: list[Entry]) -> None:
    """Every pool has spent what the ends say, nothing is reserved, and the books prove it."""
    must(not budget.engine.store.reservations("default"), "something is still reserved")
    total = [sum(column) for column in zip(*(end.amounts for end in ends), strict=True)]
    wanted = {"usd": to_decimal(total[0]), "tokens": total[1], "requests": total[4], "concurrent": 0}
    pools = budget.status(user="alice")
    must(len(pools) == len(_LIMITS), f"{len(pools)} pools")
    for pool in pools:
        must(pool.reserved == 0, f"{pool.limit}: {pool.reserved} reserved")
        must(pool.spent == wanted[pool.unit], f"{pool.limit}: spent {pool.spent}, the ledger says {wanted[pool.unit]}")
    run.refresh()
    found = (run.spent, run.reserved, run.calls)
    must(found == (wanted["usd"], 0, total[4]), f"the run says {found}")
    faults = budget.engine.books.verify().faults
    must(not faults, f"verify: {faults}")
