"""``metamon up``: starts Postgres, feed, alerts, web server and Dagster, watches them, starts dead ones again, stops all.

Here belongs everything about the processes of a home, and no Dagster: what is watched must not run the watch. One
supervisor per home, by a lock that its death releases. A guard process ends the children when the supervisor is
killed without a chance to do so itself.

``plan`` says what runs, ``processes`` keeps one alive, ``output`` makes records of what it prints, ``watchdog`` looks
at signs of life, ``run`` puts them together, ``home`` holds the lock and the state that ``metamon status`` reads.
``elsewhere`` is the watchdog alone, for processes that something else starts.
"""

from metamon_assets.supervisor.home import SupervisorError, down, lock, read_state
from metamon_assets.supervisor.plan import Plan, dagster_environment, free_port, instance_file
from metamon_assets.supervisor.processes import Child
from metamon_assets.supervisor.run import Supervisor

__all__ = [
    "Child",
    "Plan",
    "Supervisor",
    "SupervisorError",
    "dagster_environment",
    "down",
    "free_port",
    "instance_file",
    "lock",
    "read_state",
]
