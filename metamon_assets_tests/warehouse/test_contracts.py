"""The contracts of the tables: complete, and the same from the files as from the catalogue."""

from __future__ import annotations

import pytest

from metamon_assets.warehouse import connect
from metamon_assets.warehouse.contracts import Column, UnknownRelationError, declared, describe, dictionary, relations


def test_every_table_view_and_column_has_a_comment(database: str) -> None:
    found = relations(connect(database))
    assert {relation.name.split(".")[0] for relation in found} == {"metamon", "analytics", "quarantine"}
    silent = [relation.name for relation in found if not relation.comment]
    silent += [f"{relation.name}.{column.name}" for relation in found for column in relation.columns if not column.comment]
    assert silent == []


def test_files_and_catalogue_tell_the_same(database: str) -> None:
    catalogue = {relation.name: relation for relation in relations(connect(database)) if not relation.name.startswith("analytics.")}
    assert catalogue.keys() == declared().keys()
    for name, relation in catalogue.items():
        assert declared()[name] == relation


def test_describe_gives_columns_in_order_with_type_and_meaning(database: str) -> None:
    table = describe(connect(database), "metamon.traces")
    assert table.columns[0] == Column(
        "day", "date", False, "Partition key: UTC day on which the trace's root started. Spans carry their root's day."
    )
    assert next(column for column in table.columns if column.name == "total_cost").type == "numeric(20,12)"


def test_describe_says_when_there_is_no_such_table(database: str) -> None:
    with pytest.raises(UnknownRelationError, match=r"no table or view metamon\.nothing"):
        describe(connect(database), "metamon.nothing")


def test_dictionary_lists_tables_views_and_columns(database: str) -> None:
    text = dictionary(relations(connect(database)))
    assert text.startswith("## analytics.")
    assert "## metamon.traces (table)\n\nOne row per trace" in text
    assert "| thread_id | text | conversation_id: conversation (thread) that the trace belongs to. |" in text
    assert "traces_2" not in text  # no partitions
