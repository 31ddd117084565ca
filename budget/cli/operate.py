"""What operators do to an account or its file as a whole: backup, move, erase."""

from __future__ import annotations

from pathlib import Path

import click

from budget.cli.common import Common, common
from budget.cli.ledger import opened
from budget.cli.output import print_json, say
from budget.errors import ConfigError


@click.command("backup")
@click.argument("file")
@common
def backup(common: Common, file: str) -> None:
    """Copy the store's file while others write to it. The copy is proved before it has its name.

    \b
    Example:
      budget backup /var/backups/budget-monday.db
    """
    from budget.backup import back_up
    from budget.stores.sqlite import SqliteStore

    with common.open() as budget:
        store = budget.engine.store
        if not isinstance(store, SqliteStore):
            raise ConfigError("backup: only an SQLite file is copied; drain a server, and back up its records store")
        entries = back_up(store, Path(file).absolute())
    print_json({"file": file, "entries": entries}) if common.json else say(f"backed up: {entries} entries to {file}")


@click.command("move")
@click.option("--to", required=True, metavar="URL", help="The store to move to.")
@click.option("--reason", metavar="TEXT", help="Why, for the ledger.")
@common
def move(common: Common, to: str, reason: str | None) -> None:
    """Move the account to another store: limits, pools, open reservations and ledger. The old one stays frozen.

    \b
    Example:
      budget move --store sqlite:///budget.db --to redis://cache:6379/0
    """
    from budget.admin import actor
    from budget.books import Books
    from budget.config import default_records
    from budget.moving import move as move_account
    from budget.stores.base import open_store
    from budget.stores.records import Records

    with opened(common) as (budget, source):
        store = open_store(to)
        configured = budget.settings.records or default_records()
        target = Books(store, source.account, Records(configured))
        try:
            done = move_account(source, target, actor(reason))
        finally:
            store.close()
            if target.records is not None:
                target.records.close()
    told = {"entries": done.entries, "pools": done.pools, "reservations": done.reservations}
    if common.json:
        print_json(told)
    else:
        say("moved: " + ", ".join(f"{count} {name}" for name, count in told.items()))
