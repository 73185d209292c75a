"""Arrow tables as JSON lines, a column at a time: for the sample world and benchmarks, which need hundreds of MB of it.

NULLs are omitted. Texts may hold quotes, backslashes and newlines but no other control characters: the sample
world writes none, and escaping them all would cost more than everything else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_AS_JSON = frozenset({"metadata", "labels", "correction"})  # JSON text that becomes part of the line, not a string
_FREE_TEXT = frozenset({"inputs", "outputs", "error_message", "comment"})  # the others are names, which need no escaping


def lines(table: pa.Table) -> pa.Array:
    """One line per row, its newline included. At least one column must be without NULLs."""
    given = {name: table[name].combine_chunks() for name in table.column_names if table[name].null_count < table.num_rows}
    complete = [name for name, column in given.items() if column.null_count == 0]
    if not complete:
        raise ValueError("lines need a column without NULLs to begin with")
    parts: list[Any] = []
    for name in (complete[0], *(name for name in given if name != complete[0])):
        before, value, end = _text(name, given[name])
        start = ("," if parts else "{") + f'"{name}":{before}'
        if given[name].null_count:
            parts.append(pc.binary_join_element_wise(start, value, end, ""))
        else:
            parts += [start, value, end]
    return pc.binary_join_element_wise(*parts, "}\n", "", null_handling="replace", null_replacement="")


def line_bytes(array: pa.Array) -> memoryview:
    """The text of an array of lines, one after the other, without a copy."""
    if len(array) == 0:
        return memoryview(b"")
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int32, count=len(array) + 1, offset=4 * array.offset)
    return memoryview(array.buffers()[2])[int(offsets[0]) : int(offsets[-1])]


def _text(name: str, column: pa.Array) -> tuple[str, pa.Array, str]:
    """The values as text, and what JSON wants before and after them."""
    if pa.types.is_timestamp(column.type):
        # As a time without a zone, which Arrow prints thirty times as fast; all are UTC.
        plain = column.view(pa.int64()).view(pa.timestamp("us")).cast(pa.string())
        return '"', pc.replace_substring(plain, " ", "T", max_replacements=1), 'Z"'
    if pa.types.is_list(column.type):
        return '["', pc.binary_join(column, '","'), '"]'
    if not pa.types.is_string(column.type):
        return "", column.cast(pa.string()), ""
    if name in _AS_JSON:
        return "", column, ""
    if name in _FREE_TEXT:
        for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
            column = pc.replace_substring(column, character, escaped)
    return '"', column, '"'
