"""Run a command or move a file, here or over ssh; the only room that does either."""
