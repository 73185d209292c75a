"""What people type: ``metamon``. Each command reads the configuration, calls one function, prints what it gave.

Here belong options, help texts and printing, a module for each kind of command. Imports stand inside the commands, since
``metamon --help`` must answer at once. Figures go to standard output (``--json`` for programs), progress and errors to
standard error.
"""

from metamon_assets.cli import configuration, connect, data, incidents, live, processes, readiness, report, rules, targets, web
from metamon_assets.cli.group import main

__all__ = [
    "configuration",
    "connect",
    "data",
    "incidents",
    "live",
    "main",
    "processes",
    "readiness",
    "report",
    "rules",
    "targets",
    "web",
]
