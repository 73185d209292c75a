"""Tests that look at the screens as people do."""
