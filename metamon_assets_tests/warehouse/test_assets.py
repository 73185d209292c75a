"""Tables in Dagster's metadata are made of text that strangers wrote."""

from __future__ import annotations

import pytest

from metamon_assets.warehouse.assets import markdown_table


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "[click](javascript:alert(1))",
        "\\[click](javascript:alert(1))",
        "\\| another cell",
        "two\r\n| rows |",
        "two\r| rows |",
        "`code`",
    ],
)
def test_a_cell_stays_a_cell_and_is_only_text(text: str) -> None:
    table = str(markdown_table(["a"], [[text]]).value)
    _header, _rule, row = table.splitlines()
    cell = row.removeprefix("| ").removesuffix(" |")
    assert not set(cell) & set("<|`[\\")
