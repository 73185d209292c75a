"""Tests of the statistics: numbers against independent sources, calibration by simulation, properties."""
