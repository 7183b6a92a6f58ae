"""The run directory: the one database that matters, readable with `ls` and `cat`."""
