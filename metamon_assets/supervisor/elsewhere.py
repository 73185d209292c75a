"""``metamon watch``: the watchdog alone, where something else starts and restarts the processes, such as containers."""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from metamon_assets import log
from metamon_assets.supervisor.home import lock, write_state
from metamon_assets.supervisor.plan import DAGSTER_DAEMON
from metamon_assets.supervisor.processes import Elsewhere
from metamon_assets.supervisor.run import LOOK_SECONDS
from metamon_assets.supervisor.watchdog import Watchdog, look, news

if TYPE_CHECKING:
    from metamon_assets.config import Settings

logger = logging.getLogger(__name__)


def watch(settings: Settings, stopping: threading.Event, watchdog: Watchdog, look_seconds: float = LOOK_SECONDS) -> None:
    """Look at signs of life until ``stopping`` is set; findings go to the log and into the database.

    Raises SupervisorError when another process watches this home.
    """
    others = [*(Elsewhere(name, name) for name in ("feed", "web", "alerts")), Elsewhere("daemon", DAGSTER_DAEMON)]
    with lock(settings.home):
        # Without the process id: who reads this may be in another container, where another process has it.
        write_state(settings.home, {"watching": True, "since": log.timestamp(datetime.now(UTC))})
        logger.info("Watching %s", ", ".join(one.name for one in others))
        while not stopping.is_set():
            before = watchdog.findings
            watchdog.judge(look(settings, before), others, time.monotonic())
            for level, text, finding in news(before, watchdog.findings):
                logger.log(
                    logging.getLevelNamesMapping()[level.upper()], text, extra={"subject": finding.component, "state": finding.state}
                )
            stopping.wait(look_seconds)
