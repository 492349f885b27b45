"""The whole of it: pipelines, processes and a browser."""
