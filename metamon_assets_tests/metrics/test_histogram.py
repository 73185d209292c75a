"""Log-histograms: within 1 % of the exact quantile whatever the values, and the same in SQL as in Python."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metamon_assets.metrics.histogram import RELATIVE_ERROR, Histogram, bin_of, bin_value, from_arrays, from_values, merge
from metamon_assets.warehouse import connect

VALUES = st.one_of(st.none(), st.just(0.0), st.floats(min_value=1e-280, max_value=1e280), st.floats(min_value=1e-3, max_value=1e3))
QUANTILES = st.one_of(st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]), st.floats(0, 1))


def exact(values: list[float | None], q: float) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[max(math.ceil(q * len(known)), 1) - 1] if known else None


@given(st.lists(VALUES, max_size=200), QUANTILES)
def test_a_quantile_is_within_one_per_cent(values: list[float | None], q: float) -> None:
    estimate, truth = from_values(values).quantile(q), exact(values, q)
    if truth is None:
        assert estimate is None
    else:
        assert estimate == pytest.approx(truth, rel=RELATIVE_ERROR * (1 + 1e-9), abs=0)


@given(st.lists(VALUES, max_size=50), st.lists(VALUES, max_size=50))
def test_merging_is_the_histogram_of_everything(left: list[float | None], right: list[float | None]) -> None:
    assert merge([from_values(left), from_values(right)]) == from_values(left + right)


def test_unknown_values_are_not_counted_and_zeros_are_apart() -> None:
    histogram = from_values([None, math.nan, 0.0, -1.0, 1.0])
    assert histogram == Histogram((0,), (1,), 2)
    assert histogram.quantile(0.5) == 0.0
    assert histogram.quantile(1) == pytest.approx(1, rel=0.0101)


def test_extreme_values_fall_into_the_outermost_bins() -> None:
    assert (bin_of(5e-324), bin_of(1e308), bin_of(math.inf)) == (-32768, 32767, 32767)
    assert bin_value(32767) > 1e284


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_outside_zero_to_one_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        from_values([1.0]).quantile(q)


def test_a_row_s_columns_may_be_empty() -> None:
    assert from_arrays(None, None, None).quantile(0.5) is None
    assert from_arrays(None, None, 3).quantile(0.5) == 0


def test_sql_and_python_agree_on_every_digit(database: str) -> None:
    draw = random.Random(7)
    values = [0.0, 1.0, 1.01 / 0.99, (1.01 / 0.99) ** 2, 5e-324, 1e-300, 1e300, 1.7e308]
    values += [math.exp(draw.gauss(0, 3)) for _ in range(3000)] + [math.exp(draw.uniform(-600, 600)) for _ in range(1000)]
    histogram = from_values(values)
    with connect(database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT metamon.histogram_bin(v) FROM unnest(%s) WITH ORDINALITY AS t (v, o) ORDER BY o", (values,))
        assert [found for (found,) in cursor.fetchall()] == [bin_of(value) for value in values]
        # In two halves, merged: bins and counts are those of the whole.
        cursor.execute(
            "SELECT (h).bins, (h).counts FROM (SELECT metamon.histogram_merge(bins, counts) AS h FROM (SELECT array_agg(bin), array_agg(n)"
            "  FROM (SELECT o %% 2 AS half, metamon.histogram_bin(v) AS bin, count(*) AS n FROM unnest(%s) WITH ORDINALITY AS t (v, o)"
            "        WHERE v > 0 GROUP BY 1, 2) AS counted GROUP BY half) AS halves (bins, counts)) AS merged",
            (values,),
        )
        bins, counts = cursor.fetchone() or ([], [])
        assert from_arrays(bins, counts, 1) == histogram
        for q in (0, 0.001, 0.25, 0.5, 0.9, 0.95, 0.99, 1):
            cursor.execute("SELECT metamon.histogram_quantile(%s::smallint[], %s, %s, %s)", (bins, counts, 1, q))
            assert cursor.fetchone() == (histogram.quantile(q),), q


def test_sql_gives_null_for_nothing(database: str) -> None:
    with connect(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT metamon.histogram_quantile(NULL, NULL, NULL, 0.5), metamon.histogram_quantile('{}', '{}', 0, 0.5),"
            " metamon.histogram_quantile('{1}', '{1}', 0, 1.5), metamon.histogram_bin(0), metamon.histogram_bin('NaN'),"
            " metamon.histogram_bin(-1), metamon.histogram_bin(NULL)"
        )
        assert cursor.fetchone() == (None,) * 7
        cursor.execute("SELECT metamon.histogram_quantile(NULL, NULL, 3, 0.5), metamon.histogram_bin('Infinity')")
        assert cursor.fetchone() == (0, 32767)
