"""What looks ahead without changing anything: status, check, estimate."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import click

from budget.cli.common import Common, attributes_of, common
from budget.cli.output import Cell, Column, amount, is_terminal, note, pairs, print_json, say, scope_text, table, when
from budget.errors import ConfigError
from budget.pools import Pool

if TYPE_CHECKING:
    from budget.engine import Budget
    from budget.estimate import Estimate

_REFUSED = 3
_BAR = 10
_RULE = 48  # columns of the longest rule: it stays whole while other columns can be left out
_NO_PRICE = "no price"


@click.command("status")
@click.argument("words", nargs=-1, metavar="[attr=value ...]")
@common
def status(common: Common, words: tuple[str, ...]) -> None:
    """Show what is spent, reserved and available: of all pools, or of those that such calls draw on.

    Pools of the account above (above = "company" in budget.toml) come last, after its name.

    In the bar, a full block is spent and a shaded one is reserved.

    \b
    Example:
      budget status
      budget status user=alice --json
    """
    attributes = attributes_of(words)
    with common.open() as budget:
        pools = budget.status(**attributes)
        frozen = list(_frozen(budget, attributes))
    if common.json:
        print_json([pool.to_dict() for pool in pools])
        for subject in frozen:
            note(f"frozen: {subject}")
        return
    columns = [
        Column("subject", shrink=True), Column("limit", shrink=True, least=_RULE), Column("spent", True),
        Column("reserved", True), Column("available", True),
        *([Column("used", drop=2)] if is_terminal() else []), Column("resets", drop=1),
    ]  # fmt: skip
    empty = ["-"] * (len(columns) - 2)
    rows: list[list[Cell]] = [[subject, ("FROZEN", "bold red"), *empty] for subject in frozen]
    table(columns, rows + [_cells(pool) for pool in pools])
    if not pools and not frozen:
        note("there are no pools yet; set a limit: budget set per=user '$5/day'")


@click.command("check")
@click.argument("words", nargs=-1, metavar="[attr=value ...]")
@click.option("--model", required=True, help="The model, as its provider names it.")
@click.option("--in", "input_tokens", type=int, required=True, metavar="TOKENS", help="Input tokens at most.")
@click.option("--max-out", "output_tokens", type=int, required=True, metavar="TOKENS", help="Output tokens at most.")
@click.option("--provider", help="Whose API; looked up by the model if not given.")
@common
def check(
    common: Common, words: tuple[str, ...], model: str, input_tokens: int, output_tokens: int, provider: str | None
) -> int:
    """Ask whether a call would be admitted now. Writes and counts nothing; exit code 3 if it would be refused.

    \b
    Example:
      budget check user=alice --model claude-sonnet-4-6 --in 12000 --max-out 2000
    """
    from budget.asks import make_ask, must_agree

    attributes = attributes_of(words)
    with common.open() as budget:
        estimate = budget.estimate_counts(
            model, input_tokens=input_tokens, output_tokens=output_tokens, provider=provider
        )
        must_agree(budget.settings, estimate, attributes)
        engine = budget.engine
        decision = engine.drive(engine.verbs.check(make_ask(budget.settings, estimate, None, attributes)))
    if common.json:
        print_json(decision.to_dict())
    elif decision.admitted:
        say(f"admitted: at most {amount(estimate.usd_max)}" if estimate.priced else f"admitted: {_NO_PRICE}")
    else:
        for refusal in decision.refusals:
            say(f"refused: {refusal}")
    return 0 if decision.admitted else _REFUSED


@click.command("estimate")
@click.argument("request", type=click.File("rb"), metavar="REQUEST.json|-")
@click.option("--cap", metavar="AMOUNT", help="Exit with 3 if the request can cost more, such as '$0.10'.")
@click.option("--provider", help="Whose API; looked up by the model if not given.")
@click.option("--endpoint", help="Which of its endpoints, such as messages.")
@common
def estimate(
    common: Common, request: IO[bytes], cap: str | None, provider: str | None, endpoint: str | None
) -> int:  # fmt: skip
    """Estimate what a request body costs at most, without sending it. Nothing of it is stored.

    \b
    Example:
      budget estimate request.json
      budget estimate - --cap '$0.10' < request.json
    """
    from budget.money import format_usd, parse_usd

    limit = None if cap is None else parse_usd(cap, "cap")
    with common.open() as budget:
        found = budget.estimate(_body(request), provider=provider, endpoint=endpoint)
    over = cap is not None and (not found.priced or found.exceeds(cap))
    if common.json:
        mark = {} if found.priced else {"priced": False}
        verdict = {} if limit is None else {"cap": format_usd(limit), "exceeds": over}
        print_json({**found.to_dict(), **mark, **verdict})
        return _REFUSED if over else 0
    most = amount(found.usd_max) if found.closed else f"no bound: {'; '.join(found.reasons)}"
    pairs([
        ("model", f"{found.model} ({found.provider or 'own price'})" if found.priced else found.model),
        ("input tokens", f"{found.input_tokens:,}, at most {found.input_tokens_max:,}"),
        ("output tokens", f"at most {found.output_tokens_max:,}"),
        ("expected", amount(found.usd) if found.priced else _NO_PRICE),
        ("at most", most if found.priced else _NO_PRICE),
        *([] if cap is None else [("cap", _against(found, cap))]),
    ])  # fmt: skip
    return _REFUSED if over else 0


def _against(found: Estimate, cap: str) -> str:
    """Say how an estimate stands to a cap. What has no price or no bound may cost anything, so that it is above."""
    if not found.priced:
        return f"{_NO_PRICE}, so above {cap}"
    if not found.closed:
        return f"no bound, so above {cap}"
    return f"{amount(found.usd_max)} is {'above' if found.exceeds(cap) else 'within'} {cap}"


def _body(request: IO[bytes]) -> Mapping[str, Any]:
    """Read a request body.

    Raises:
        ConfigError: It is not a JSON object; the message tells where, and nothing of what stands there.
    """
    try:
        body = json.loads(request.read())
    except json.JSONDecodeError as error:
        raise ConfigError(f"request: not JSON (line {error.lineno}, column {error.colno})") from None
    except UnicodeDecodeError:
        raise ConfigError("request: not JSON (not UTF-8)") from None
    except ValueError:
        raise ConfigError("request: not JSON of a request (a number of thousands of digits)") from None
    except RecursionError:
        raise ConfigError("request: not JSON of a request (nested too deeply)") from None
    if not isinstance(body, dict):
        raise ConfigError(f"request: a JSON object is needed, not {type(body).__name__}")
    return body


def _frozen(budget: Budget, attributes: Mapping[str, str]) -> Iterator[str]:
    """Tell who is frozen, here and in the account above."""
    from budget.limits import name_model
    from budget.overview import load_policy

    above, named = budget.engine.above, name_model(budget.settings.book, attributes)
    for engine, account in ((budget.engine, None), *([(above, above.settings.account)] if above else [])):
        for subject in load_policy(engine).freezes:
            if _concerns(subject, named):
                yield _of(scope_text(subject) or "everybody", account)


def _of(subject: str, account: str | None) -> str:
    return subject if account is None else f"{account}: {subject}"


def _concerns(frozen: Mapping[str, str], attributes: Mapping[str, str]) -> bool:
    """Whether a freeze has to do with calls that have these attributes."""
    if any(attributes.get(name, value) != value for name, value in frozen.items()):
        return False
    return not attributes or not frozen or bool(frozen.keys() & attributes.keys())


def _cells(pool: Pool) -> list[Cell]:
    figures = [amount(value) for value in (pool.spent, pool.reserved, pool.available)]
    resets = when(pool.resets_at)
    rule = pool.limit.rule if pool.limit.mode == "enforce" else f"{pool.limit.rule} ({pool.limit.mode})"
    subject = _of(str(pool.subject), pool.account)
    if not is_terminal():
        return [subject, rule, *figures, resets]
    return [subject, rule, *figures, _bar(pool), resets[5:] or "-"]


def _bar(pool: Pool) -> Cell:
    """Draw how much is spent and reserved; what is not zero has a block."""
    whole = pool.limit.amount
    if not whole:
        return "-"
    spent = min(_BAR, max(int(pool.spent * _BAR / whole), pool.spent > 0))
    reserved = min(_BAR - spent, max(int(pool.reserved * _BAR / whole), pool.reserved > 0))
    style = "red" if pool.available <= 0 else "yellow" if spent + reserved >= 0.8 * _BAR else "green"
    return "█" * spent + "▒" * reserved + "░" * (_BAR - spent - reserved), style
