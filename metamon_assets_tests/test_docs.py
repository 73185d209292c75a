"""The documents tell the truth: commands in them run, nothing is left out, every requirement has its line.

Every command in a ``console`` or ``sh`` block of README.md and docs/ is either run here, or has a reason in
ELSEWHERE why it is not. Commands run in the order of the document, in one home per document, from the
repository's folder, with the project's programs on PATH.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from metamon_assets.cli import main
from metamon_assets.cli.group import ORDER
from metamon_assets.warehouse.postgres import EmbeddedPostgres

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
SPECIFICATION = REPOSITORY.parent / "shared" / "SPEC.md"
RECORDINGS = Path(os.environ.get("METAMON_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
STATUSES = {"works", "partly", "not yet"}

# Commands that are not run here, and why.
ELSEWHERE = {
    r"make run\b.*": "takes minutes; .ci/run and the end-to-end test run the pipeline over the sample world",
    r"make up\b.*": "runs until Ctrl-C; test_supervisor starts and stops the same processes",
    r"make down": "see make up",
    r"make test\b.*": "runs this test",
    r"make bench\b.*": "takes minutes",
    r"make (lint|types)": "run by .ci/run",
    r"metamon up": "runs until Ctrl-C; see test_supervisor",
    r"git clone .*": "needs the network",
    r"(read -rs .*|metamon connect langsmith)": "needs a key; onboarding/test_trials.py connects a local LangSmith",
    **({} if RECORDINGS.is_dir() else {r".*\$DATA.*": "needs the recordings, which are not here"}),
}

# What a document takes for granted and is too long to be run as it stands there, in little: make run. (docs/report.md has the same
# commands as README.md over days of the sample world.)
BEFORE = {"README.md": "metamon migrate", "health.md": "metamon migrate"}


@dataclass(frozen=True)
class Command:
    """A command of a document, with the line it stands on."""

    document: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(REPOSITORY)}:{self.line}: {self.text}"

    @property
    def elsewhere(self) -> bool:
        return any(re.fullmatch(pattern, self.text) for pattern in ELSEWHERE)


def commands_of(document: Path) -> Iterator[Command]:
    """Lines after ``$ `` in console blocks (what follows them is output), every line in sh blocks; ``\\`` continues."""
    language, pending, first = "", "", 0
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            language = "" if language else line.strip().removeprefix("```") or "text"
            continue
        text = line.strip()
        if language == "console" and not pending:
            if not text.startswith("$ "):
                continue
            text = text.removeprefix("$ ")
        elif language not in ("console", "sh", "bash", "shell") or not text or text.startswith("#"):
            continue
        first = first if pending else number
        pending += text.removesuffix("\\")
        if not text.endswith("\\"):
            yield Command(document, first, re.sub(r"\s+#\s.*$", "", pending).strip())
            pending = ""


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="metamon-docs-"))
    folder.chmod(0o755)
    yield folder
    EmbeddedPostgres(folder).stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(600)  # a document starts many whole processes, which wait for each other on a busy machine
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_the_commands_of_the_documents_run(document: Path, home: Path) -> None:
    if document.name == "real-input.md" and not RECORDINGS.is_dir():
        pytest.skip(f"no recordings in {RECORDINGS}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METAMON_")}
    environment |= {"METAMON_HOME": str(home), "DATA": str(RECORDINGS)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    before = [Command(document, 0, BEFORE[document.name])] if document.name in BEFORE else []
    for command in [*before, *commands_of(document)]:
        if command.elsewhere:
            continue
        done = subprocess.run(["bash", "-ec", command.text], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_documents_name_only_commands_that_exist() -> None:
    texts = [command.text for document in DOCUMENTS for command in commands_of(document)]
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for text in texts:
        if text.startswith("make "):
            assert text.split()[1] in targets, text
        if text.startswith("metamon "):
            assert text.split()[1] in main.commands, text


def test_the_readme_lists_every_command_once_with_its_help() -> None:
    rows = re.findall(r"^\| `metamon (\S+?)[ `].*?\| (.*) \|$", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert dict(rows) == {name: " ".join((command.help or "").split("\n\n")[0].split()) for name, command in main.commands.items()}
    assert [name for name, _ in rows] == ORDER, "in the order of `metamon --help`"


def test_links_inside_the_documents_lead_somewhere() -> None:
    broken = [
        f"{document.relative_to(REPOSITORY)}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text(encoding="utf-8"))
        if not (document.parent / target).exists()
    ]
    assert not broken


def status_rows() -> list[tuple[str, str, str]]:
    text = (REPOSITORY / "docs/STATUS.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ([A-Z]{2,3}(?:-\d+)?) \| .+? \| (.*?) \| (.*?) ?\|$", text, re.MULTILINE)


def test_every_requirement_has_one_status() -> None:
    rows = status_rows()
    assert not [name for name, count in Counter(name for name, _, _ in rows).items() if count > 1]
    assert {status for _, status, _ in rows} <= STATUSES
    assert not [name for name, status, remark in rows if status == "partly" and not remark], "partly, but what is missing?"


def test_the_status_knows_every_requirement_of_the_specification() -> None:
    if not SPECIFICATION.exists():
        pytest.skip(f"no {SPECIFICATION}")
    families = {name.split("-")[0] for name, _, _ in status_rows()}
    named = re.findall(r"\b([A-Z]{2,3}-\d+)\b", SPECIFICATION.read_text(encoding="utf-8"))
    wanted = {name for name in named if name.split("-")[0] in families} | {"TGT"}
    assert {name for name, _, _ in status_rows()} == wanted
