"""What agents did: runs, spans, feedback, events and gauges, from every source, in one shape."""
