"""A process of `test_processes.py`: crosses a limit's threshold with seven others, and ends when it is told to.

usage: crossing.py STORE FOLDER
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from budget import Budget
from budget.alerts import Alert

store, folder = sys.argv[1], Path(sys.argv[2])


def tell(alert: Alert) -> None:
    """Note a warning, by whom it was told."""
    with (folder / "told").open("a") as file:
        file.write(f"{alert.id} {os.getpid()} {alert.text}\n")


with Budget(store, limits=["$1/day"], alerts=["limit at 50%", "drift in 1d"], alert_to=[tell]) as budget:
    (folder / f"ready-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    for _ in range(5):
        budget.record(usd="0.02", user="alice")
    (folder / f"done-{os.getpid()}").touch()
    while not (folder / "end").exists():
        time.sleep(0.05)
