"""The `dto` command: words in, calls to the rooms below, words out."""
