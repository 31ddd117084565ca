"""Plots are SVG that a browser takes whatever the texts are, and their geometry follows from the figures alone."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.plot import bars, lines

SVG = "{http://www.w3.org/2000/svg}"
HOUR = 3600 * 10**6
START = 1767225600 * 10**6  # 2026-01-01


def texts(document: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(document).iter(f"{SVG}text")]


def rects(document: str) -> list[dict[str, str]]:
    return [e.attrib for e in ElementTree.fromstring(document).iter(f"{SVG}rect") if "class" not in e.attrib]


def places(document: str) -> list[list[tuple[float, float]]]:
    found = ElementTree.fromstring(document).iter(f"{SVG}polyline")
    return [[tuple(map(float, p.split(","))) for p in e.attrib["points"].split()] for e in found]  # type: ignore[misc]


def test_a_bar_is_as_long_as_its_amount_and_says_it() -> None:
    drawn = bars("Cost by user", [("alice", 4 * 10**9), ("bob", 10**9), ("nobody", 0)])
    assert texts(drawn) == ["Cost by user", "alice", "$4.00", "bob", "$1.00", "nobody", "$0.00"]
    lengths = [float(rect["width"]) for rect in rects(drawn)]
    assert lengths[0] > 300
    assert lengths[1:] == [pytest.approx(lengths[0] / 4, abs=0.1), 0]


def test_a_line_goes_through_its_points_and_axes_say_money_and_time() -> None:
    drawn = lines("Spent", {"a": [(START, 0), (START + 2 * HOUR, 10**9), (START + 4 * HOUR, 2 * 10**9)],
                            "b": [(START, 2 * 10**9), (START + 4 * HOUR, 0)]})  # fmt: skip
    assert [text for text in texts(drawn) if "$" in text] == ["$0.00", "$0.50", "$1.00", "$1.50", "$2.00"]
    assert [text for text in texts(drawn) if ":" in text] == [f"01-01 0{hour}:00" for hour in range(5)]
    first, second = places(drawn)
    (x0, y0), (x1, y1), (x2, y2) = first
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1)
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)
    assert y2 < y0
    assert second == [(x0, y2), (x2, y0)]
    assert {"a", "b"} <= set(texts(drawn))


@pytest.mark.parametrize(("span", "form"), [
    (30 * 10**6, "00:00:05"), (3 * HOUR, "01-01 01:00"), (20 * 24 * HOUR, "2026-01-08"), (4000 * 24 * HOUR, "2029"),
])  # fmt: skip
def test_times_are_round_and_few(span: int, form: str) -> None:
    times = [text for text in texts(lines("t", {"": [(START, 1), (START + span, 2)]})) if "$" not in text]
    assert 3 <= len(times) <= 9
    assert any(form in text for text in times)


def test_many_points_are_thinned_and_the_peak_stays() -> None:
    points = [(START + i * 10**6, 7 if i != 5001 else 10**9) for i in range(20_000)]
    [drawn] = places(lines("t", {"": points}))
    assert len(drawn) <= 602
    assert min(y for _, y in drawn) < min(sorted({y for _, y in drawn})[1:])


@pytest.mark.parametrize("drawn", [bars("t", []), lines("t", {}), lines("t", {"a": []})])
def test_nothing_says_so(drawn: str) -> None:
    assert texts(drawn) == ["t", "nothing to show"]


def test_one_point_and_no_money_are_drawn() -> None:
    assert places(lines("t", {"a": [(START, 0)]}))[0]
    assert texts(lines("t", {"a": [(START, 3)]}, show=lambda count: f"{count} calls")).count("3 calls") == 1


@given(st.text(max_size=60), st.text(max_size=60), st.integers(0, 2**53))
def test_any_text_is_escaped_and_the_same_figures_are_the_same_bytes(title: str, label: str, amount: int) -> None:
    for drawn, again in (
        (bars(title, [(label, amount)]), bars(title, [(label, amount)])),
        (lines(title, {label: [(START, amount)]}), lines(title, {label: [(START, amount)]})),
    ):
        assert drawn == again
        drawn.encode()
        root = ElementTree.fromstring(drawn)
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            "svg", "title", "style", "rect", "text", "line", "polyline",
        }  # fmt: skip


def test_a_document_fetches_nothing_and_has_both_grounds() -> None:
    drawn = bars("t", [('"><script href="x">', 1)])
    assert "<script" not in drawn
    assert "prefers-color-scheme: dark" in drawn
    assert drawn.count("http") == 1  # the name of SVG itself
