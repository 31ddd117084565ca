"""What operators do to an account or its file as a whole: backup, move, erase."""

from __future__ import annotations

from pathlib import Path

import click

from budget.cli.common import Common, common
from budget.cli.ledger import opened
from budget.cli.output import note, print_json, say
from budget.errors import ConfigError

_CALLS = "-calls"
"""What follows a store's name in that of the file of its calls (`budget.records`)."""


@click.command("backup")
@click.argument("file")
@common
def backup(common: Common, file: str) -> None:
    """Copy the store's file while others write to it. The copy is proved before it has its name.

    Beside it, as FILE-calls, goes what reports know and the ledger does not: imported calls, sums of pruned ones.

    \b
    Example:
      budget backup budget-monday.db
    """
    from budget.books.backup import back_up
    from budget.stores.sqlite import SqliteStore

    with common.open() as budget:
        store = budget.engine.store
        if not isinstance(store, SqliteStore):
            raise ConfigError("backup: only an SQLite file is copied; drain a server, and back up its records store")
        entries = back_up(store, Path(file).absolute(), [_CALLS])
    if Path(f"{file}{_CALLS}").exists():
        note(f"imported calls, and sums of those that were pruned, are in {file}{_CALLS}: keep it with {file}")
    print_json({"file": file, "entries": entries}) if common.json else say(f"backed up: {entries} entries to {file}")


@click.command("move")
@click.option("--to", required=True, metavar="URL", help="The store to move to.")
@click.option("--reason", metavar="TEXT", help="Why, for the ledger.")
@common
def move(common: Common, to: str, reason: str | None) -> None:
    """Move the account to another store: limits, pools, open reservations and ledger. The old one stays frozen.

    Imported calls go with it. Sums of calls that were pruned do not: reports of the old store still have them.

    \b
    Example:
      budget move --to sqlite:///other.db --reason 'a disk of its own'
    """
    from budget.admin import actor
    from budget.books.books import Books
    from budget.books.moving import move as move_account
    from budget.config import default_records
    from budget.config.values import store_url
    from budget.records.moving import move_imported
    from budget.stores.base import open_store
    from budget.stores.records import Records

    if to in ("memory://", "disabled://"):
        raise ConfigError(f"to: {to!r} keeps nothing beyond this command; name a file or a server")
    with opened(common) as (budget, source):
        store = open_store(store_url("to", to) or "")
        configured = budget.settings.records or default_records(store.url)
        target = Books(store, source.account, Records(configured))
        try:
            done = move_account(source, target, actor(reason))
            move_imported(source, target)
            pruned = source.ledger().checkpoint(source.account) is not None
        finally:
            store.close()
            if target.records is not None:
                target.records.close()
    if pruned:
        note("what calls cost that were pruned before is not in the reports of the new store; keep the old one for it")
    told = {"entries": done.entries, "pools": done.pools, "reservations": done.reservations}
    if common.json:
        print_json(told)
    else:
        say("moved: " + ", ".join(f"{count} {name}" for name, count in told.items()))


@click.command("erase")
@click.argument("word", metavar="attr=value")
@click.option("--reason", metavar="TEXT", help="Why, for the ledger.")
@common
def erase(common: Common, word: str, reason: str | None) -> None:
    """Put a pseudonym in the place of a value, in all that is kept of it. Sums and chain stay provable.

    The pseudonym is made with the key in BUDGET_ERASE_KEY, else with that of a file beside the store (.erase-key).

    \b
    Example:
      budget erase user=alice --reason 'request of 3 March'
    """
    from budget.admin import actor
    from budget.alerts.erasing import forget
    from budget.cli.common import attributes_of
    from budget.overview import load_policy
    from budget.records.erasing import erase as erase_value

    wanted = attributes_of((word,))
    [(attribute, value)] = wanted.items()
    with opened(common) as (budget, books):
        load_policy(budget.engine)  # if the store cannot answer, it says so before a key is looked for beside it
        done = erase_value(books, attribute, value, actor(reason))
        forget(books, attribute, value)
    if not done.clean:
        note(
            "a reader keeps the file's log: it still has the value until that reader has gone and something is written"
        )
    told = {"entries": done.entries, "pseudonym": done.pseudonym, "clean": done.clean}
    print_json(told) if common.json else say(f"erased: {done.entries} entries; it is now {attribute}={done.pseudonym}")
