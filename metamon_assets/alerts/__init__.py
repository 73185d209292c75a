"""Rules, anomalies, incidents and what is told of them."""
