"""Files that providers export are read as what they are, or refused."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from bill.month import DAY_0, DAY_US, make_month
from bill.vendors import Vendors
from budget.bill import PROVIDERS, BillFile, Fetcher, load, pull
from budget.errors import ConfigError

DAY = (date(2026, 8, 4) - date(1970, 1, 1)).days
TOKENS = """usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,\
usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,\
usage_output_tokens,web_search_count,inference_geo,speed
2026-08-04,claude-haiku-4-5-20251001,app,Default,standard,≤ 200k,46981,15969,7,3,16932,2,global,
2026-08-06,claude-haiku-4-5-20251001,app,Default,batch,≤ 200k,10,0,0,0,20,0,us,
"""
COSTS = """usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd,\
cost_type,inference_geo,speed
2026-08-04,Claude Haiku 4.5,Default,app,message,≤ 200k,input_no_cache,0.05,0.05,token,not_available,
2026-08-04,Claude Haiku 4.5,Default,app,message,≤ 200k,input_cache_write_5m,0.02,0.02,token,global,
2026-08-04,,Default,app,message,,,0.02,0.02,web_search,,
"""
OPENAI_COSTS = """start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,\
quantity_unit,line_item,user_id,api_key_id,project_id
1785801600,1785888000,2026-08-04T00:00:00,2026-08-05T00:00:00,,,,,,,,
1785888000,1785974400,2026-08-05T00:00:00,2026-08-06T00:00:00,0.003835980000000000000000000000,usd,,,\
"priority | gpt-5.6-luna, cached input, long context",,key_1,proj_1
"""
OPENAI_USAGE = """start_time,end_time,num_model_requests,project_id,api_key_id,model,batch,input_tokens,\
output_tokens,input_cached_tokens
1785801600,1785801660,3,proj_1,key_1,gpt-4o-2024-08-06,False,1000,50,400
1785801660,1785801720,,,,,,,,
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_consoles_of_anthropic(tmp_path: Path) -> None:
    bill = BillFile(None)
    files = [write(tmp_path / "a.csv", "\ufeff" + TOKENS), write(tmp_path / "b.csv", COSTS)]
    assert load(files, bill, 5) == {"anthropic": {DAY, DAY + 1, DAY + 2}}
    first, second = bill.used("anthropic", DAY, DAY + 2)
    assert (first.input, first.cache_write, first.cache_read, first.output) == (46981, {"5m": 15969, "1h": 7}, 3, 16932)
    assert (first.units, first.key, first.tier, first.geo) == ({"web_search": 2}, "app", None, None)
    assert (second.tier, second.geo, second.day) == ("batch", "us", DAY + 2)
    charged = list(bill.charged("anthropic", DAY, DAY + 2))
    assert [(c.model, c.item, c.nanos, c.off) for c in charged] == [
        ("claude-haiku-4-5", "input", 50_000_000, 5_000_000),
        ("claude-haiku-4-5", "cache_write_5m", 20_000_000, 5_000_000),
        (None, "web_search", 20_000_000, 5_000_000),
    ]
    assert bill.days("anthropic", "messages") == {DAY: 5, DAY + 1: 5, DAY + 2: 5}
    bill.close()


def test_consoles_of_openai(tmp_path: Path) -> None:
    bill = BillFile(None)
    load([write(tmp_path / "a.csv", OPENAI_COSTS), write(tmp_path / "b.csv", OPENAI_USAGE)], bill, 5)
    [cost] = bill.charged("openai", DAY, DAY + 2)
    assert (cost.model, cost.item, cost.tier, cost.long) == ("gpt-5.6-luna", "cache_read", "priority", True)
    assert (cost.nanos, cost.key) == (3_835_980, "key_1")
    [used] = bill.used("openai", DAY, DAY + 2)
    assert (used.input, used.cache_read, used.output, used.requests, used.tier) == (600, 400, 50, 3, None)
    assert bill.days("openai", "completions") == {DAY: 5}
    bill.close()


def _dump(value: object) -> str:
    return json.dumps(value, default=float)


@pytest.mark.parametrize("lines", [False, True])
def test_a_saved_answer_is_as_good_as_the_answer(lines: bool, vendors: Vendors, tmp_path: Path) -> None:
    vendors.calls = [call.theirs for call in make_month(1) if call.theirs]
    pulled, loaded = BillFile(None), BillFile(None)
    buckets = []
    for provider in PROVIDERS.values():
        fetcher = Fetcher(provider, vendors.url)
        pull(fetcher, pulled, DAY_0, DAY_0 + 6, 1)
        for report in provider.reports:
            begin, end = (provider.write_time((DAY_0 + day) * DAY_US) for day in (0, 7))
            query = [*zip(provider.times, (begin, end), strict=True), ("limit", "31")]
            query += [("group_by[]", group) for group in report.groups]
            buckets += fetcher._get(report, query)["data"]
    text = "\n".join(map(_dump, buckets)) if lines else _dump([{"data": buckets}])
    load([write(tmp_path / "saved.json", text)], loaded, 1)
    for name in PROVIDERS:
        assert sorted(map(str, loaded.used(name, 0, 99999))) == sorted(map(str, pulled.used(name, 0, 99999)))
        for one, other in zip(loaded.charged(name, 0, 99999), pulled.charged(name, 0, 99999), strict=True):
            assert one == other
    pulled.close()
    loaded.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has neither the columns"), ("a,b\n1,2\n", "has neither the columns"), ("{}", "else than buckets"),
        ("[1]", "not a report"), ('{"data": []}', "no bucket"), ("{]", "neither JSON nor JSON Lines"),
        ('{"start_time": 0, "end_time": 1, "results": [{"object": "organization.usage.cats.result"}]}', "'cats'"),
        (COSTS.replace("0.05,0.05", "much,0.05"), "cost_usd: is not an amount"),
        (TOKENS.replace("46981", "-3"), "uncached_input_tokens: is not a count"),
        (OPENAI_COSTS.replace("usd", "eur"), "'eur' is not USD"),
        (OPENAI_USAGE.replace("1000,50", "100,50"), "below the cached tokens"),
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused_and_named(text: str, message: str, tmp_path: Path) -> None:
    bill = BillFile(None)
    good = write(tmp_path / "good.csv", TOKENS)
    with pytest.raises(ConfigError, match=message) as raised:
        load([good, write(tmp_path / "bad.txt", text)], bill, 5)
    assert "bad.txt" in str(raised.value)
    assert bill.days("anthropic", "messages") == {}
    bill.close()


def test_two_files_of_the_same_day_are_refused(tmp_path: Path) -> None:
    bill = BillFile(None)
    files = [write(tmp_path / "a.csv", TOKENS), write(tmp_path / "b.csv", TOKENS)]
    with pytest.raises(ConfigError, match="two files have the report messages"):
        load(files, bill, 5)
    with pytest.raises(ConfigError, match=r"gone\.csv cannot be read"):
        load([tmp_path / "gone.csv"], bill, 5)
    bill.close()
