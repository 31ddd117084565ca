"""What these tests share: a provider that is told how to answer call by call, and the SDKs' drivers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

import pytest

from budget import Budget
from budget.demo.provider import Provider, Reply
from tests.clients.others.drivers import ASYNC, DRIVERS, Driver

_SDKS = ("boto3", "cohere", "groq", "litellm", "mistralai")  # `make test-matrix` has an environment with them
collect_ignore_glob = [] if any(map(find_spec, _SDKS)) else ["test_*.py"]
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks for one while it is imported


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Third parties' warnings are not ours to fix."""
    for item in items:
        if "others" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture
def replies() -> list[Reply]:
    """How the next calls are answered, in turn; then as usual."""
    return []


@pytest.fixture
def provider(replies: list[Reply]) -> Iterator[Provider]:
    with Provider(script=lambda request: replies.pop(0) if replies else Reply(), output_tokens=8) as running:
        yield running
        running.wait()


def _imported(kind: type[Driver]) -> Driver:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(kind.package)
    return kind()


@pytest.fixture(params=DRIVERS, ids=lambda kind: kind.__name__)
def driver(request: pytest.FixtureRequest) -> Driver:
    return _imported(request.param)


@pytest.fixture(params=ASYNC, ids=lambda kind: kind.__name__)
def adriver(request: pytest.FixtureRequest) -> Driver:
    return _imported(request.param)


@pytest.fixture
def budget(make_budget: Callable[..., Budget]) -> Budget:
    return make_budget("memory://", limits=["$100/day"])


def spent(budget: Budget) -> Decimal:
    """What all calls together cost."""
    return sum((Decimal(entry.usd) for entry in budget.entries() if entry.kind in ("reconciled", "expired")), Decimal())
