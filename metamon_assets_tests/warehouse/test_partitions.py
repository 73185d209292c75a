"""Making a day must not wait for those who use the table, nor make them wait."""

from __future__ import annotations

import pytest

from metamon_assets.warehouse import connect


@pytest.mark.parametrize("table", ["traces", "spans", "payloads", "feedback", "gauge_samples", "five_minute_metrics", "unit_daily"])
def test_a_day_is_made_while_the_table_is_in_use(database: str, table: str) -> None:
    reader, maker, late = connect(database), connect(database), connect(database)
    reader.cursor().execute(f"SELECT count(*) FROM metamon.{table}")  # and its transaction stays open
    with maker.cursor() as cursor:
        cursor.execute("SET lock_timeout = '1s'")
        cursor.execute("SELECT metamon.ensure_partition(%s, '2026-08-22'), metamon.ensure_partition(%s, '2026-08-22')", (table, table))
        assert cursor.fetchone() == (True, False)
        with late.cursor() as other:  # while the maker has not committed
            other.execute("SET lock_timeout = '1s'")
            other.execute(f"SELECT count(*) FROM metamon.{table}")
    maker.commit()
    with maker, maker.cursor() as cursor:
        count = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname = %s"
        cursor.execute(f"SELECT ({count}), ({count})", (f"{table}_20260822", table))
        of_day, of_table = cursor.fetchone() or (None, None)
    assert of_day == of_table


def test_a_full_day_is_attached_while_the_table_is_in_use(database: str) -> None:
    reader, maker = connect(database), connect(database)
    reader.cursor().execute("SELECT count(*) FROM metamon.payloads")
    with maker, maker.cursor() as cursor:
        cursor.execute("SET lock_timeout = '1s'")
        cursor.execute("SELECT metamon.begin_partition('payloads', '2026-08-22')")
        cursor.execute("SELECT metamon.attach_partition('payloads', '2026-08-22')")
    with reader.cursor() as cursor:
        cursor.execute("SELECT metamon.partition_exists('payloads', '2026-08-22')")
        assert cursor.fetchone() == (True,)
