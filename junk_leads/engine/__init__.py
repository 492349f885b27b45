"""A drop in shards: the same steps on each shard, in this process or on a Dask cluster, and what is combined of them.

In order: shards, executors, cluster, parts, tallies, on_shards, drops, table_parts, making.
"""
