"""Dagster's side: assets with their checks, the IO manager, resources, jobs, the sensor and the schedule."""
