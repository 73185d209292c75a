"""What a run cost: as its source reported, computed from the prices of its day, or unpriced (IN-9).

Here belong the price of a model on a day and the arithmetic from tokens to dollars. Prices come from the table that
the ``genai-prices`` package bundles (never fetched: its updater is not started) and from ``metamon.price_overrides``,
which go first. Which tokens a source's figures mean is settled before, in ``traces.normalise``: ``input_tokens``
includes the cached ones. The total of a whole trace is summed afterwards, in the database.

Rules:

- A cost that the source reports is kept, also when it could be computed, also when it is 0.
- Calls of a model are priced from tokens: run types llm and embedding, and roots of any type that tell model and
  tokens themselves. What contains priced calls (chains, agents) gets their sum in the merge instead, or the same tokens
  would be paid for twice.
- Unknown model, unknown token count: ``total_cost`` is NULL and ``cost_source`` unpriced, never 0. A part that is
  known (only output tokens were recorded) still fills ``input_cost`` or ``output_cost``.
- ``cache_hit`` on a model call means that the application answered from its own cache and no call was made: it costs 0.
- A tier (above 200,000 input tokens, say) holds for all tokens of the call, as the providers bill it.
- Costs are exact decimals, each part rounded half to even at 10⁻¹² dollars; the total is the sum of the rounded parts.

Not known here, hence priced at the standard rate: service tiers and batch discounts, cache entries kept for an hour,
tokens of images and sound. Reported costs know them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from metamon_assets.traces import columns

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

PRICED_RUN_TYPES = ("llm", "embedding")
MOST_TOKENS = 10**9  # of one kind in one run; with the dearest rate a cost still fits its column

_PER_MILLION = pa.decimal128(17, 12)  # dollars for a million tokens: below 100,000
_PRODUCT = pa.decimal128(30, 12)
_SHIFTED = pa.decimal128(30, 18)  # the same digits, a millionth of the value
_TOKENS = pa.decimal128(19, 0)
_DEAREST = Decimal(10_000)
_LAST = np.iinfo(np.int64).max
_DAY, _MINUTE = 24 * 60, 1


@dataclass(frozen=True, slots=True)
class PriceOverride:
    """One row of ``metamon.price_overrides``: prices in dollars for a million tokens from a UTC day on.

    ``provider`` may be ``*`` for any. Cache prices of None are those of input. Without a price for input (or output)
    such tokens stay unpriced. Raises ValueError when a price is negative or above 10,000.
    """

    provider: str
    model: str
    valid_from: date
    input_per_million: Decimal | None = None
    output_per_million: Decimal | None = None
    cache_read_per_million: Decimal | None = None
    cache_creation_per_million: Decimal | None = None

    def __post_init__(self) -> None:
        for price in (self.input_per_million, self.output_per_million, self.cache_read_per_million, self.cache_creation_per_million):
            if price is not None and not 0 <= price <= _DEAREST:
                raise ValueError(
                    f"price override {self.provider}/{self.model} from {self.valid_from}: {price} is not within 0 and {_DEAREST}"
                )


@dataclass(frozen=True, slots=True)
class _Rates:
    """Dollars for a million tokens of a kind; ``request`` for a call. None: there is no price for that kind."""

    input: Decimal | None
    output: Decimal | None
    cache_read: Decimal | None
    cache_creation: Decimal | None
    reasoning: Decimal | None
    request: Decimal = Decimal(0)


_Tiers = tuple[tuple[int, _Rates], ...]  # (more input tokens than this, rates), ascending; the first from -1
_Names = tuple[str | None, str | None, str | None]  # provider, answering model, requested model


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a provider asks for a model over time; constant for ``step`` minutes (0: for ever)."""

    overrides: tuple[PriceOverride, ...]  # latest first
    model: ModelInfo | None
    step: int

    def at(self, moment: datetime) -> _Tiers | None:
        for override in self.overrides:
            if override.valid_from <= moment.date():
                return ((-1, _override_rates(override)),)
        return None if self.model is None else _tiers(self.model.get_prices(moment))


class PriceBook:
    """Prices of models over time. Keeps what it looked up, so use one for many batches; not for several threads at once.

    ``unpriced_models`` counts the runs, by ``provider/model``, for which no price was found.
    """

    def __init__(self, overrides: Iterable[PriceOverride] = ()) -> None:
        self.unpriced_models: Counter[str] = Counter()
        self._overrides: dict[tuple[str, str], list[PriceOverride]] = {}
        for override in sorted(overrides, key=lambda override: override.valid_from, reverse=True):
            self._overrides.setdefault((override.provider.lower(), override.model.lower()), []).append(override)
        self._offers: dict[_Names, _Offer] = {}
        self._tiers: dict[tuple[_Names, int], _Tiers | None] = {}
        self._bundled: DataSnapshot | None = None

    def models_of(self, provider: str | None) -> tuple[str, ...]:
        """The models of a provider in the bundled table; none when it is not in there."""
        owner = self._owner(provider)
        return tuple(str(model.id) for found in self._snapshot().providers if found.id == owner for model in found.models)

    def price(self, table: pa.Table) -> pa.Table:
        """The runs with ``input_cost``, ``output_cost``, ``total_cost`` and ``cost_source`` filled by the rules above.

        ``table`` has the unified columns; ``input_tokens`` includes cached ones, counts are within 0 and ``MOST_TOKENS``
        (ValueError otherwise). Rows keep their order.
        """
        table = table.combine_chunks()
        total = _column(table, "total_cost")
        total = pc.coalesce(total, _sum(_column(table, "input_cost"), _column(table, "output_cost")))
        reported = pc.is_valid(total)
        said = pc.if_else(pc.equal(_column(table, "cost_source"), "computed"), "computed", "reported")  # our own export, read again
        source = pc.if_else(reported, pc.fill_null(said, "reported"), "unpriced")
        table = _with(table, total_cost=total, cost_source=source)
        is_call = pc.is_in(_column(table, "run_type"), pa.array(PRICED_RUN_TYPES))
        to_price = pc.and_(pc.invert(reported), pc.or_(is_call, _names_its_model(table)))
        if not pc.any(to_price).as_py():
            return table
        return self._fill(table, to_price)

    def _fill(self, table: pa.Table, to_price: pa.Array) -> pa.Table:
        """Replaces the costs of the rows in ``to_price`` by computed ones."""
        calls = table.filter(to_price).combine_chunks()
        input_cost, output_cost = self._costs(calls)
        for_free = pc.fill_null(_column(calls, "cache_hit"), fill_value=False)
        nothing = pa.scalar(Decimal(0), columns.MONEY)
        input_cost, output_cost = pc.if_else(for_free, nothing, input_cost), pc.if_else(for_free, nothing, output_cost)
        total = _sum(input_cost, output_cost)
        source = pc.if_else(pc.is_valid(total), "computed", "unpriced")
        computed = {"input_cost": input_cost, "output_cost": output_cost, "total_cost": total, "cost_source": source}
        return _with(table, **{name: pc.replace_with_mask(_column(table, name), to_price, values) for name, values in computed.items()})

    def _costs(self, calls: pa.Table) -> tuple[pa.Array, pa.Array]:
        """Input and output cost of model calls; NULL where a price or a count is missing."""
        offers, offer_of = self._look_up(calls)
        counts = {name: _column(calls, name) for name in _COUNTS}
        rates, rate_of = _choose_tier(offers, offer_of, counts["input_tokens"])
        read, creation = _or_zero(counts["cache_read_input_tokens"]), _or_zero(counts["cache_creation_input_tokens"])
        reasoning = _or_zero(counts["reasoning_output_tokens"])
        fresh = pc.subtract(pc.subtract(counts["input_tokens"], read), creation)
        produced = counts["output_tokens"]
        # An embedding has no output; a call of a model whose output count is missing is not a call without output.
        produced = pc.if_else(pc.and_(pc.is_null(produced), pc.equal(_column(calls, "run_type"), "embedding")), 0, produced)
        plain = pc.subtract(produced, reasoning)
        _refuse_impossible({**counts, "input_tokens without cached ones": fresh, "output_tokens without reasoning": plain})
        rate = {
            name: _money(rates, name).take(rate_of) for name in ("input", "output", "cache_read", "cache_creation", "reasoning", "request")
        }
        input_cost = _dollars((fresh, rate["input"]), (read, rate["cache_read"]), (creation, rate["cache_creation"]))
        output_cost = _dollars((plain, rate["output"]), (reasoning, rate["reasoning"]))
        return _sum(input_cost, rate["request"].cast(columns.MONEY)), output_cost

    def _look_up(self, calls: pa.Table) -> tuple[list[_Tiers | None], npt.NDArray[np.int64]]:
        """The distinct prices in these calls, and which of them each call pays."""
        names, name_of = _distinct(_column(calls, "provider"), _column(calls, "response_model"), _column(calls, "request_model"))
        steps = np.array([self._offer(name).step for name in names], np.int64)[name_of]
        minutes = _column(calls, "start_time").cast(pa.int64()).to_numpy() // 60_000_000
        moments = np.where(steps > 0, minutes - minutes % np.maximum(steps, 1), 0)
        keys, key_of = _encoded(pa.array(name_of << 32 | moments))
        tiers = [self._price(names[key >> 32], key & 0xFFFF_FFFF) for key in keys]
        for tier, key, count in zip(tiers, keys, np.bincount(key_of).tolist(), strict=True):
            if tier is None:
                provider, response, request = names[key >> 32]
                self.unpriced_models[f"{provider or 'unknown provider'}/{response or request or 'unknown model'}"] += count
        return tiers, key_of

    def _price(self, names: _Names, minute: int) -> _Tiers | None:
        key = (names, minute)
        if key not in self._tiers:
            self._tiers[key] = self._offer(names).at(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=minute))
        return self._tiers[key]

    def _offer(self, names: _Names) -> _Offer:
        if names not in self._offers:
            provider, *models = names
            overrides = next(filter(None, self._override_candidates(provider, [model for model in models if model])), [])
            found = next(filter(None, (self._find(provider, model) for model in models if model)), None)
            steps = [_DAY] if overrides else []
            self._offers[names] = _Offer(tuple(overrides), found, min([*steps, *_steps(found)], default=0))
        return self._offers[names]

    def _override_candidates(self, provider: str | None, models: Sequence[str]) -> Iterator[list[PriceOverride]]:
        for model in models:
            for owner in (provider or "", "*"):
                yield self._overrides.get((owner.lower(), model.lower()), [])

    def _find(self, provider: str | None, model: str) -> ModelInfo | None:
        """The model in the bundled table under its provider's name there; gateways put the provider before the model."""
        for owner, name in self._spellings(provider, model):
            try:
                return self._snapshot().find_provider_model(name, None, owner, None)[1]
            except LookupError:
                continue
        return None

    def _spellings(self, provider: str | None, model: str) -> Iterator[tuple[str | None, str]]:
        owner = self._owner(provider)
        head, _, rest = model.partition("/")
        if owner is not None:
            yield owner, model
            if rest:
                yield owner, rest
        elif provider is None or provider.lower() in _GATEWAYS:
            if rest and (named := self._owner(head)) is not None:
                yield named, rest
            yield None, model

    def _owner(self, provider: str | None) -> str | None:
        """The bundled table's name of a provider, from OpenTelemetry's, LangChain's or an address; None when it is not in it."""
        from genai_prices.data_snapshot import find_provider_by_id

        if not provider:
            return None
        name = provider.strip().lower().removeprefix("api.")
        if name.startswith(("azure", "az.")) or name.endswith(".azure"):
            return "azure"
        if name.startswith("gcp."):
            return "google"
        stem = name.removesuffix(".ai").removesuffix(".com").removesuffix(".xyz")
        for spelling in (_PROVIDERS.get(name, name), _PROVIDERS.get(stem, stem)):
            if found := find_provider_by_id(self._snapshot().providers, spelling):
                return str(found.id)
        return None

    def _snapshot(self) -> DataSnapshot:
        if self._bundled is None:
            from genai_prices.data import providers
            from genai_prices.data_snapshot import DataSnapshot

            self._bundled = DataSnapshot(providers=providers, from_auto_update=False)
        return self._bundled


# Names that the bundled table does not know by itself.
_PROVIDERS = {
    "x_ai": "x-ai",
    "fireworks_ai": "fireworks",
    "togethercomputer": "together",
    "z_ai": "zai",
    "zhipu": "zhipuai",
    "hugging_face": "huggingface",
}
_GATEWAYS = frozenset({"litellm", "unknown", "other"})
_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "reasoning_output_tokens")


def _steps(model: ModelInfo | None) -> list[int]:
    """Minutes for which a bundled price is constant; none where it never changed."""
    from genai_prices.types import TimeOfDateConstraint

    if model is None or not isinstance(model.prices, list):
        return []
    by_the_clock = any(isinstance(price.constraint, TimeOfDateConstraint) for price in model.prices)
    return [_MINUTE if by_the_clock else _DAY]


def _override_rates(override: PriceOverride) -> _Rates:
    known = override.input_per_million
    read, creation = override.cache_read_per_million, override.cache_creation_per_million
    return _Rates(
        input=known,
        output=override.output_per_million,
        cache_read=known if read is None else read,
        cache_creation=known if creation is None else creation,
        reasoning=override.output_per_million,
    )


def _tiers(price: ModelPrice) -> _Tiers | None:
    """A bundled price as tiers; None when it has none for input tokens (priced by the second, page or picture)."""
    from genai_prices.types import TieredPrices

    def rate(key: str, tokens: int) -> Decimal | None:
        value = getattr(price, key)
        if isinstance(value, TieredPrices):
            return next((tier.price for tier in reversed(value.tiers) if tier.start <= tokens), value.base)
        return value

    if price.input_mtok is None:
        return None
    starts = {tier.start for value in vars(price).values() if isinstance(value, TieredPrices) for tier in value.tiers}
    result = []
    for start in (-1, *sorted(starts)):
        fresh, output = rate("input_mtok", start), rate("output_mtok", start)
        read, creation, reasoning = rate("cache_read_mtok", start), rate("cache_write_mtok", start), rate("output_reasoning_mtok", start)
        result.append(
            (
                start,
                _Rates(
                    input=fresh,
                    output=output,
                    cache_read=fresh if read is None else read,
                    cache_creation=fresh if creation is None else creation,
                    reasoning=output if reasoning is None else reasoning,
                    request=(rate("requests_kcount", start) or Decimal(0)) / 1000,
                ),
            )
        )
    return tuple(result)


# Columns ------------------------------------------------------------------------------------------------------


def _names_its_model(table: pa.Table) -> pa.Array:
    """Roots that tell model and tokens themselves, as logs with a line per request do. Where such a root turns out to
    have priced model calls below it, the merge puts their sum in the place of this figure."""
    model = pc.or_(pc.is_valid(_column(table, "request_model")), pc.is_valid(_column(table, "response_model")))
    tokens = pc.and_(pc.is_valid(_column(table, "input_tokens")), pc.is_valid(_column(table, "output_tokens")))
    return pc.and_(pc.is_null(_column(table, "parent_run_id")), pc.and_(model, tokens))


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _with(table: pa.Table, **arrays: pa.Array) -> pa.Table:
    for name, array in arrays.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), array)
    return table


def _or_zero(counts: pa.Array) -> pa.Array:
    return pc.fill_null(counts, 0)


def _sum(left: pa.Array, right: pa.Array) -> pa.Array:
    return pc.add(left, right).cast(columns.MONEY)


def _distinct(*arrays: pa.Array) -> tuple[list[_Names], npt.NDArray[np.int64]]:
    """The distinct combinations of values, and which of them each row has."""
    values, codes = zip(*map(_encoded, arrays), strict=True)
    shape = tuple(map(len, values))
    combined, which = _encoded(pa.array(np.ravel_multi_index(codes, shape)))
    places = np.stack(np.unravel_index(combined, shape), axis=1).tolist()
    return [tuple(of_column[place] for of_column, place in zip(values, row, strict=True)) for row in places], which


def _encoded(array: pa.Array) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """Distinct values, NULL among them, and which of them each row has."""
    encoded = array.dictionary_encode(null_encoding="encode")
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _refuse_impossible(counts: dict[str, pa.Array]) -> None:
    for name, values in counts.items():
        limits = pc.min_max(values).as_py()
        if limits["min"] is not None and (limits["min"] < 0 or limits["max"] > MOST_TOKENS):
            raise ValueError(f"{name} must be within 0 and {MOST_TOKENS:,}, not {limits['min']} to {limits['max']}: normalise first")


def _choose_tier(
    offers: Sequence[_Tiers | None], offer_of: npt.NDArray[np.int64], input_tokens: pa.Array
) -> tuple[list[_Rates | None], pa.Array]:
    """All rates that occur, and which of them holds for each call (NULL: none, or the tier cannot be told)."""
    rates: list[_Rates | None] = []
    first: list[int] = []
    most = max((len(offer) for offer in offers if offer), default=1)
    starts = np.full((len(offers), most), _LAST, np.int64)
    for number, offer in enumerate(offers):
        first.append(len(rates))
        for tier, (start, rate) in enumerate(offer or ()):
            starts[number, tier] = start
            rates.append(rate)
    tokens = _or_zero(input_tokens).to_numpy()
    tier_of = (tokens[:, None] > starts[offer_of, 1:]).sum(axis=1)
    priced = np.array([offer is not None for offer in offers], bool)[offer_of]
    flat = np.array([len(offer or ()) <= 1 for offer in offers], bool)[offer_of]
    known = flat | pc.is_valid(input_tokens).to_numpy(zero_copy_only=False)
    return rates, pa.array(np.array(first, np.int64)[offer_of] + tier_of, mask=~(priced & known))


def _money(rates: Sequence[_Rates | None], name: str) -> pa.Array:
    return pa.array([_rounded(getattr(rate, name)) for rate in rates], _PER_MILLION)


@cache
def _rounded(price: Decimal | None) -> Decimal | None:
    return None if price is None else price.quantize(Decimal(1).scaleb(-_PER_MILLION.scale))


def _dollars(*parts: tuple[pa.Array, pa.Array]) -> pa.Array:
    """Σ tokens × dollars per million / 10⁶, exact, then rounded to the column's scale.

    A part of no tokens costs nothing whatever its price; one of unknown tokens or unknown price makes the sum NULL.
    """
    total = None
    for tokens, rate in parts:
        known = pc.if_else(pc.equal(tokens, 0), pa.scalar(Decimal(0), _PER_MILLION), rate)
        product = pc.multiply(tokens.cast(_TOKENS), known).cast(_PRODUCT)
        total = product if total is None else pc.add(total, product).cast(_PRODUCT)
    assert total is not None
    millionth = pa.Array.from_buffers(_SHIFTED, len(total), total.buffers(), total.null_count, total.offset)
    return pc.round(millionth, columns.MONEY.scale, round_mode="half_to_even").cast(columns.MONEY)
