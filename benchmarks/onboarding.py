"""From a key to the report: a LangSmith project of 14 days × 1,000 traces, connected by a scripted dialogue on a terminal.

The server is the tests' own, with LangSmith's documented limit of 15 run queries in 10 s; pages hold 100 runs in the older
query and 1,000 in the current one. Time runs from the first key to the first report (after the newest day) and to the full
one, everything included: a home without a database, questions, reading, metrics, both reports.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from _common import Report, Target, arguments

from metamon_assets_tests.onboarding.langsmith_world import fill
from metamon_assets_tests.onboarding.terminal import converse
from metamon_assets_tests.traces.sources.langsmith_server import Backend, LangSmithServer

TARGETS = (
    Target("first report, pages of 100", "s", 600, at_least=False),
    Target("full report, pages of 100", "s", 600, at_least=False),
    Target("first report, pages of 1,000", "s", 600, at_least=False),
    Target("full report, pages of 1,000", "s", 600, at_least=False),
    Target("questions asked", "", 3, at_least=False),
    Target("refused for their rate", "requests"),
)
DAYS, PER_DAY = 14, 1_000
BACKENDS: tuple[tuple[Backend, str], ...] = (("dual", "pages of 1,000"), ("clickhouse", "pages of 100"))


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    options = parser.parse_args()
    report = Report("onboarding", TARGETS, options)
    days, per_day = (3, 100) if options.quick else (DAYS, PER_DAY)
    questions, refused = 0, 0
    for backend, pages in BACKENDS:
        home = Path(tempfile.mkdtemp(prefix="metamon-onboarding-"))
        home.chmod(0o755)
        try:
            with LangSmithServer(backend=backend) as server:
                fill(server.store, "production", days=days, per_day=per_day, now=datetime.now(UTC), seed=options.seed)
                server.store.add_project("staging")
                environment = {"METAMON_HOME": str(home / "home"), "LANGSMITH_API_KEY": server.key}
                told = converse(
                    ["connect", "langsmith", "--endpoint", server.api_url], environment, {"How many days": str(days)}, timeout=3600
                )
                runs = len(server.store.runs)
                queries = sum(request.path.endswith("/runs/query") for request in server.log)
                refused += sum(request.status == 429 for request in server.log)
            if told.exit_code or told.first_report is None:
                sys.exit(f"metamon connect failed:\n{told.text[-4000:]}")
            questions = max(questions, len(told.questions))
            note = f"{days} days × {per_day:,} traces, {runs:,} runs, {queries:,} run queries"
            report.record(f"first report, {pages}", told.first_report, note)
            report.record(f"full report, {pages}", told.seconds, note)
        finally:
            shutil.rmtree(home, ignore_errors=True)
    report.record("questions asked", questions, "each with a default")
    report.record("refused for their rate", refused, "429 from the server's sliding window")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
