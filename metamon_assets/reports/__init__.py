"""What people read after a run: sections that the stages contribute."""
