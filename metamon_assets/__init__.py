"""Metamon: the loop that watches AI agents, explains, improves and proves.

One folder per stage of the loop; ``definitions`` is what Dagster loads, ``cli`` is what people type.
Nothing is imported here, so that ``metamon --help`` and ``metamon_assets.live`` stay light.
"""
