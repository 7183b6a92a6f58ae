"""`python -m dto` is `dto`."""

from dto.cli.main import main

main()
