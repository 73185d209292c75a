"""The scorers that lie beside the reference cases, loaded where they are: nothing of them is copied here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def load(folder: Path) -> Any:
    """The module ``score.py`` of a folder of reference cases."""
    specification = importlib.util.spec_from_file_location(f"{folder.name}_scorer", folder / "score.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
