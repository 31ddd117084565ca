"""300 agents of 20 users at once, with nested runs, tools and streams, on each store: no pool is ever above its limit.

Each agent asks with a tool, works for it in a run of its own (a stream, which some leave early), and answers. The
limits allow about two thirds of what they want. Afterwards the ledger is replayed entry by entry, and held against the
provider's log and what every run says of itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
import pytest
from proof.invariants import Books

from budget import Budget, BudgetExceeded, Limit
from budget.demo.provider import Provider, Reply, Request, Seen
from budget.ledger import Entry
from budget.policy import read_name
from budget.run import Run
from budget.stores.base import read_entries

AGENTS, USERS = 300, 20
LIMITS = [
    Limit("$0.12/year"),  # a day would end during some night's run
    Limit("$0.008/year", per="user"),
    Limit("$0.002/year", user="u3"),
    Limit("40k tokens/7d rolling"),
    Limit("14 concurrent", per="user"),
    Limit("$0.05/request"),
]
PROMPT = [{"role": "user", "content": "Find the cause of this bug, and say in a few words how you would fix it."}]
CLAUDE, GPT = "claude-sonnet-4-6", "gpt-4.1"
RATES = {CLAUDE: (3000, 15000), GPT: (2000, 8000)}  # nano-dollars per token, input and output
SCHEMA = {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]}
CLAUDE_TOOL = {"name": "look", "input_schema": SCHEMA}
GPT_TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}


def script(request: Request) -> Reply:
    """Call the tool as long as nothing came back from it."""
    body = request.json
    return Reply(tool=bool(body.get("tools")) and len(body["messages"]) == 1, output=12, latency=0.002)


@dataclass
class Crew:
    """The agents, and what they met with: every run by its id, and how each call ended by its tag."""

    budget: Budget
    claude: anthropic.AsyncAnthropic
    gpt: openai.AsyncOpenAI
    runs: list[Run] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)
    stopped: int = 0

    async def agent(self, number: int) -> None:
        speak = self._claude if number % 2 else self._gpt
        limit = "$0.0009" if number % 3 == 0 else None
        try:
            with self._run(limit, max_calls=9, user=f"u{number % USERS}", agent=f"a{number}"):
                asked = await speak(f"{number}.ask", PROMPT, tools=True)
                async with self._run("$0.0008", tool="look") as inner:
                    found = await speak(f"{number}.look", PROMPT, leave=number % 5 == 0)
                    assert inner.parent is not None
                await speak(f"{number}.answer", [*PROMPT, *asked, {"role": "user", "content": found}])
        except BudgetExceeded:
            self.stopped += 1

    def _run(self, limit: str | None = None, **options: Any) -> Run:
        self.runs.append(self.budget.run(limit, **options))
        return self.runs[-1]

    async def _claude(self, tag: str, messages: list[Any], *, tools: bool = False, leave: bool | None = None) -> Any:
        request: dict[str, Any] = {"model": CLAUDE, "max_tokens": 40, "messages": messages}
        request |= {"tools": [CLAUDE_TOOL]} if tools else {}
        with self._call(tag) as headers:
            if leave is None:
                answer = await self.claude.messages.create(**request, extra_headers=headers)
                self.ends[tag] = "answered"
                return [{"role": "assistant", "content": [block.to_dict() for block in answer.content]}]
            async with self.claude.messages.stream(**request, extra_headers=headers) as stream:
                return await self._read(tag, stream.text_stream, leave)

    async def _gpt(self, tag: str, messages: list[Any], *, tools: bool = False, leave: bool | None = None) -> Any:
        request: dict[str, Any] = {"model": GPT, "max_tokens": 40, "messages": messages}
        request |= {"tools": [GPT_TOOL]} if tools else {}
        with self._call(tag) as headers:
            if leave is None:
                answer = await self.gpt.chat.completions.create(**request, extra_headers=headers)
                self.ends[tag] = "answered"
                calls = answer.choices[0].message.tool_calls or []
                return [{"role": "assistant", "content": " ".join(call.function.arguments for call in calls) or "done"}]
            stream = await self.gpt.chat.completions.create(**request, extra_headers=headers, stream=True)
            async with stream:
                texts = (chunk.choices[0].delta.content or "" async for chunk in stream)
                return await self._read(tag, texts, leave)

    async def _read(self, tag: str, texts: Any, leave: bool) -> str:
        self.ends[tag] = "left"
        words = []
        async for text in texts:
            words.append(text)
            if leave and len(words) == 4:
                return "".join(words)
        self.ends[tag] = "answered"
        return "".join(words)

    def _call(self, tag: str) -> Any:
        """A run of its own, so that its entries are known, and the headers that tell the provider whose it is."""
        crew = self

        class Call:
            def __enter__(self) -> dict[str, str]:
                self.run = crew._run(call=tag)
                self.run.__enter__()
                crew.ends[tag] = "refused"
                return {"x-demo-tag": tag}

            def __exit__(self, *exc: object) -> None:
                self.run.__exit__(*exc)

        return Call()


async def work(budget: Budget, url: str) -> Crew:
    claude = anthropic.AsyncAnthropic(
        base_url=url, api_key="key", http_client=anthropic.DefaultAsyncHttpxClient(verify=False)
    )
    gpt = openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="key", http_client=openai.DefaultAsyncHttpxClient(verify=False)
    )
    async with claude, gpt:
        crew = Crew(budget, budget.wrap(claude), budget.wrap(gpt))
        async with asyncio.timeout(240):
            await asyncio.gather(*map(crew.agent, range(AGENTS)))
    return crew


def test_300_agents_at_once(budget_factory: Callable[..., Budget]) -> None:
    budget = budget_factory(limits=LIMITS, store_timeout=60)
    with Provider(script=script) as provider:
        crew = asyncio.run(work(budget, provider.url))
        provider.wait()
        log = {seen.tag: seen for seen in provider.requests}
        assert len(log) == len(provider.requests)
    store, account = budget.engine.store, budget.settings.account
    entries = [entry for entry in read_entries(store, account) if entry.kind != "limit_set"]
    names = store.snapshot(account).names
    fullest = highest(entries, names, [*LIMITS, *(limit for run in crew.runs for limit in run.limits)])
    check_calls(crew, entries, log)
    check_runs(crew, entries)
    check_pools(budget, entries)
    Books(own=[*LIMITS, *(limit for run in crew.runs for limit in run.limits)]).observe(store)
    met = Counter(crew.ends.values())
    assert min(met["answered"], met["left"], met["refused"]) > 10, met  # else nothing was put to the test
    assert {"year", "run"} <= fullest.keys()
    assert min(fullest["year"], fullest["run"]) > 0.8, fullest


def highest(entries: list[Entry], names: Mapping[str, str], limits: list[Limit]) -> dict[str, float]:
    """Replay the ledger: no pool is above its limit after any entry. Returns how full the fullest was, by window."""
    known = {limit.identity: limit for limit in limits}
    limit_of = {pool: known[read_name(name)[0]] for pool, name in names.items()}
    pools: dict[str, int] = defaultdict(int)  # a rolling pool's parts all count, and there is one window of the others
    full: dict[str, float] = defaultdict(float)
    for entry in entries:
        for posting in entry.postings:
            limit = limit_of[posting.pool]
            pools[posting.pool] += posting.spent + posting.reserved
            assert 0 <= pools[posting.pool] <= limit.quantity, (entry.seq, entry.kind, str(limit), pools[posting.pool])
            kind = limit.window.kind
            full[kind] = max(full[kind], pools[posting.pool] / limit.quantity)
    return full


def check_calls(crew: Crew, entries: list[Entry], log: Mapping[str | None, Seen]) -> None:
    """Each call has one reservation and one end, or a refusal and no request; what it cost is what the log bills."""
    kinds: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        kinds[entry.scope["call"]].append(entry)
    assert kinds.keys() == crew.ends.keys()
    stopped = 0
    for tag, end in crew.ends.items():
        found = [entry.kind for entry in kinds[tag]]
        if end == "refused":
            stopped += 1
            assert (found, tag in log) == (["refused"], False), tag
            continue
        assert found == ["reserved", "reconciled"], (tag, found)
        billed, spent = bill(log[tag]), kinds[tag][1].amounts[0]
        if end == "answered":
            assert spent == billed, tag
        else:
            assert kinds[tag][1].detail["estimated"], tag
            assert 0 < spent <= most(kinds[tag][0]), tag
    assert stopped == crew.stopped


def bill(seen: Seen) -> int:
    """What the provider bills for a request, nano-dollars."""
    usage, rates = seen.usage or {}, RATES[seen.model or ""]
    read = usage.get("input_tokens", usage.get("prompt_tokens"))
    made = usage.get("output_tokens", usage.get("completion_tokens"))
    return int(read * rates[0] + made * rates[1])


def most(reserved: Entry) -> int:
    """What a call had reserved, nano-dollars."""
    return max(posting.reserved for posting in reserved.postings if posting.reserved < 10**9)


def check_runs(crew: Crew, entries: list[Entry]) -> None:
    """What each run says that it spent is the sum of the entries of its calls, and of those of the runs within it."""
    own: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for entry in entries:
        own[entry.scope["run"]][0] += entry.amounts[0]
        own[entry.scope["run"]][1] += entry.amounts[4]
    total: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for run in crew.runs:
        for around in run.chain():
            total[around.id] = [a + b for a, b in zip(total[around.id], own[run.id], strict=True)]
    assert sum(1 for run in crew.runs if run.parent is None) == AGENTS
    for run in crew.runs:
        spent, calls = total[run.id]
        assert (int(run.spent * 10**9), run.reserved, run.calls) == (spent, 0, calls), run
    for run in [run for run in crew.runs if run.limits][::20]:  # and so says the store
        run.refresh()
        assert (int(run.spent * 10**9), run.reserved, run.calls) == (*(total[run.id][0], 0), total[run.id][1]), run


def check_pools(budget: Budget, entries: list[Entry]) -> None:
    """Every pool is the sum of its entries, and nothing is left reserved."""
    assert budget.engine.books.verify().faults == []
    assert not budget.engine.store.reservations(budget.settings.account)
    spent: dict[str, int] = defaultdict(int)
    for entry in entries:
        spent[entry.scope["user"]] += entry.amounts[0]
    pools = [pool for pool in budget.status() if pool.unit == "usd"]
    assert len(pools) == 1 + USERS
    for pool in pools:
        whose = pool.subject.get("user")
        wanted = spent[whose] if whose else sum(spent.values())
        assert (int(pool.spent * 10**9), pool.reserved) == (wanted, 0), pool


@pytest.mark.parametrize("above", [0, 1])
def test_the_replay_sees_a_pool_above_its_limit(budget_factory: Callable[..., Budget], above: int) -> None:
    """The check itself: one nano-dollar less would have been too little."""
    budget = budget_factory(limits=["$1/day"])
    budget.reconcile(budget.reserve("$1"), usd="1")
    entries = [entry for entry in budget.entries() if entry.kind != "limit_set"]
    names = budget.engine.store.snapshot(budget.settings.account).names
    limit = Limit("$1/day" if not above else "$0.999999999/day")
    if above:
        with pytest.raises(AssertionError):
            highest(entries, names, [limit])
    else:
        assert highest(entries, names, [limit]) == {"day": 1.0}
