"""`python -m dto.cli` is `dto`, for where the console script is not on PATH."""

from dto.cli.main import main

main()
