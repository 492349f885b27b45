"""Running it: the instance, the jobs launched in one process, and what a home needs beside them."""
