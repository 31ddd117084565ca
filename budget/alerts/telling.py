"""How warnings reach their channels: from the file, one after another, each channel in a thread of its own.

A thread is there while its channel has something to be told, so that one that hangs holds up no other, nor the reading
of the ledger. What fails is tried again after five seconds, then twice as long each time up to ten minutes (an hour,
where the receiver says that the same will fail again), until it succeeds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Thread

from budget.alerts.channels import Channel
from budget.alerts.file import AlertFile
from budget.errors import StoreUnavailable
from budget.sinks.base import SinkFailed

__all__ = ["Teller"]

_FIRST_WAIT, _LONGEST_WAIT, _PERMANENT_WAIT = 5.0, 600.0, 3600.0
_log = logging.getLogger("budget.alerts")


class Teller:
    """Tells the warnings of one account.

    Args:
        file: Where they are.
        account: Whose.
        channels: Who is told.
    """

    def __init__(self, file: AlertFile, account: str, channels: Sequence[Channel]):
        self._file, self._account, self._channels = file, account, channels
        self._threads: dict[str, Thread] = {}

    def tell(self) -> None:
        """Begin to tell what is due, where that is not under way.

        Raises:
            StoreUnavailable: The file cannot be read.
        """
        with self._file.step(self._account) as step:
            due = [channel for channel in self._channels if step.due(channel.name) is not None]
        for channel in due:
            under_way = self._threads.get(channel.name)
            if under_way is None or not under_way.is_alive():
                thread = Thread(target=self._run, args=(channel,), name=f"budget-alerts-{channel.name}", daemon=True)
                self._threads[channel.name] = thread
                thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for what is under way, each channel for so long at most."""
        for thread in self._threads.values():
            thread.join(seconds)

    def _run(self, channel: Channel) -> None:
        try:
            while self._tell_one(channel):
                pass
        except StoreUnavailable as error:
            _log.warning("%s", error)

    def _tell_one(self, channel: Channel) -> bool:
        """Tell the oldest warning that is due; whether there may be more."""
        with self._file.step(self._account) as step:
            alert = step.due(channel.name)
        if alert is None:
            return False
        try:
            channel.send(alert)
        except Exception as error:  # of a channel that somebody else wrote, too
            failed = error if isinstance(error, SinkFailed) else SinkFailed(type(error).__name__)
            self._keep(channel, alert.id, failed)
            return False
        with self._file.step(self._account) as step:
            step.delivered(alert.id, channel.name)
        return True

    def _keep(self, channel: Channel, alert: str, error: SinkFailed) -> None:
        with self._file.step(self._account) as step:
            tries = step.failed(alert, channel.name, str(error))
            wait = _PERMANENT_WAIT if error.permanent else min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(tries - 1, 16))
            step.hold(channel.name, max(wait, min(error.retry_after or 0.0, _PERMANENT_WAIT)))
        if tries == 1:
            _log.warning("channel %s: %s (it is tried again)", channel.name, error)
