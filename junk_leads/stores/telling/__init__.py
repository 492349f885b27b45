"""What people are told of deliveries, kept: what checks found, the history of drops, alerts."""
