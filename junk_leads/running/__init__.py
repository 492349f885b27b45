"""Running it: the jobs launched in one process, and the servers."""
