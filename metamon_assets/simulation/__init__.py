"""A seeded world of agents in production whose truth is known. Tests, benchmarks and the cli use it; no stage may."""
