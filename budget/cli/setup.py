"""`budget init`: a configuration file in which every line is a comment, and every setting in it would work."""

from __future__ import annotations

from pathlib import Path

import click

from budget.cli.common import Common, common
from budget.cli.output import print_json, say

__all__ = ["TEMPLATE"]

TEMPLATE = """\
# Configuration of budget. The nearest budget.toml counts: of the working folder, else of its parents.
# An argument in code, or an option of the command line, goes before BUDGET_STORE, BUDGET_ACCOUNT and so on, and
# those go before this file. Take the first "#" from a line to use it. Lines with "# " are words.

# Where limits, pools and the ledger are kept. Three slashes: relative to the working folder; four: absolute.
# Without it: budget/budget.db in $XDG_DATA_HOME (or ~/.local/share).
#store = "sqlite:///budget.db"

# One world of limits, pools and ledger in that store: 1 to 64 letters, digits, "_" or "-".
#account = "default"

# Another account of it, whose limits bind every call besides.
#above = "company"

# With a server: the SQLite file that its ledger is drained into, in the background; one file for an account.
#records = "sqlite:////var/lib/budget/records.db"

# A model without a price: "refuse", or "allow", which counts its tokens and requests and no money.
#on_unpriced = "refuse"

# A request without an upper bound of cost: "refuse", or what it may reserve, such as "$0.50".
#on_unbounded = "refuse"

# Who counts a request's input tokens: "tokenizer", which is here; or "provider", which is asked once where the bound of
# a wrapped client's call would be refused and the expectation would not.
#count_with = "tokenizer"

# What a call sets aside: "max", the most it can cost; or "p99", "p95" or "expected", learned, which can be overrun.
#reserve_at = "max"

# A call whose reserve the store cannot answer: "refuse", "local_allowance:$1" (what this process may spend meanwhile,
# bought in advance) or "allow:i-accept-unbounded-spend".
#on_store_error = "refuse"

# For very many small calls: buy up to so much of the pools at a time, and decide from that for a second at most.
#slices = "$1"

# Seconds that one call may wait for the store.
#store_timeout = 2.0

# Files of prices of your own, or folders of them, relative to this file, such as ["contract.toml", "prices/"]. They
# have the schema of the shipped ones and lie over them, a later one over an earlier one; over them lies
# budget-prices.toml beside this file, which `budget prices set` writes. `budget prices check` says what is wrong.
#price_files = []

# Where calls are told of as they end, in the background: files, databases, webhooks, Prometheus, OpenTelemetry.
#sinks = ["jsonl:calls.jsonl?rotate=100MB", "prometheus://127.0.0.1:9464"]

# What to warn of, once over all processes, and where: "log", "slack:VARIABLE", "webhook+https://...", "email:...".
#alerts = ["default", "session > $5 in 10m"]
#alert_to = ["log"]

# Limits of every process that reads this file, besides those set in the store (`budget set`), which win where both
# exist. An amount per window: request, run, minute, hour, day, week, month, year, lifetime, or "7d rolling".

# Everybody together.
#[[limits]]
#limit = "$500/day"

# Each user, by the calendar of a time zone.
#[[limits]]
#limit = "$5/day"
#per = "user"
#tz = "Europe/Berlin"

# One user: this replaces the limit per user of the same unit and window.
#[[limits]]
#limit = "$20/day"
#user = "alice"

# A cap: the most that one request may cost.
#[[limits]]
#limit = "$0.25/request"

# Tokens (all input, cached too, and all output) and requests can be limited as well.
#[[limits]]
#limit = "2M tokens/hour"
#per = "agent"

#[[limits]]
#limit = "100 requests/minute"
#per = "user"

# Calls at once: each takes a slot and gives it back when it ends. There is no window.
#[[limits]]
#limit = "8 concurrent"
#per = "user"

# Options: where windows begin (a day at "06:00", a week on "sunday", a month on 15, a year on "04-01"), how much of
# what a window of money left unspent the next one may use, when to warn, and mode = "shadow", which never refuses.
#[[limits]]
#limit = "$100/month"
#per = "team"
#starts = 15
#rollover = "$20"
#warn = ["80%"]
#mode = "shadow"

# Single prices of your own, USD per million tokens, as text. They go before all of those. A price that is half or less
# of the one known must say so: lower = true.
#[[prices]]
#model = "my-model"
#input = "0.10"
#output = "0.40"
#cache_read = "0.01"
"""


@click.command("init")
@common
def init(common: Common) -> None:
    """Write a commented budget.toml into the working folder. An existing one stays as it is.

    \b
    Example:
      budget init
    """
    from budget.config import FILE

    path = Path(FILE)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise click.ClickException(f"{FILE} exists already; it was left as it is") from None
    print_json({"written": str(path.absolute())}) if common.json else say(f"written: {path.absolute()}")
