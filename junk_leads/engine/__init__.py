"""A drop in shards: the same steps on each, in this process or on a Dask cluster, and combining.

In order: shards, executors, cluster, parts, tallies, on_shards, drops, table_parts, making.
"""
