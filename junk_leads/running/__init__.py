"""Running it: the instance, the jobs launched in one process, and the servers."""
