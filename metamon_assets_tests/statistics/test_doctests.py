"""Every example in the statistics' docstrings runs and gives what it says; every public function has one."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

from metamon_assets import statistics

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
MODULES = sorted(module.name for module in pkgutil.iter_modules(statistics.__path__))


def load(name: str) -> ModuleType:
    return importlib.import_module(f"metamon_assets.statistics.{name}")


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name: str) -> None:
    failed, _ = doctest.testmod(load(name))
    assert failed == 0


def test_the_examples_of_the_guide_run() -> None:
    failed, tried = doctest.testfile(str(GUIDE), module_relative=False)
    assert (failed, tried > 3) == (0, True)


# The modules that others call; the rest are the numbers behind them.
@pytest.mark.parametrize(
    "name",
    ["significance", "raw_values", "sequential", "power", "prediction_powered", "anomaly", "localisation", "trend", "forecast", "causal"],
)
def test_public_functions_have_an_example(name: str) -> None:
    module = load(name)
    functions = [
        function
        for function_name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not function_name.startswith("_")
    ]
    assert functions
    for function in functions:
        text = inspect.getdoc(function) or ""
        assert ">>> " in text, f"{function.__qualname__} has no example"


def test_the_package_imports_nothing() -> None:
    tree = ast.parse(Path(statistics.__file__).read_text(encoding="utf-8"))
    assert not [
        node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__"
    ]
