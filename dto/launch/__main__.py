"""`python -m dto.launch job|agent`: what job scripts and coordinators start; not for people."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from dto.errors import DtoError
from dto.launch.agent import run_agent
from dto.launch.job import run_job
from dto.runs.paths import Run
from dto.runs.streams import settle_streams


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dto.launch")
    commands = parser.add_subparsers(dest="command", required=True)
    job = commands.add_parser("job", help="coordinate one run on the nodes at hand")
    job.add_argument("--run", type=Path, required=True, help="the run directory")
    job.add_argument("--submission", type=int, required=True)
    commands.add_parser("agent", help="serve one node; the coordinator is in the environment")
    options = parser.parse_args()
    try:
        if options.command == "agent":
            return asyncio.run(run_agent(os.environ))
        return run_job(Run(options.run.resolve()), options.submission)
    except DtoError as error:
        sys.stderr.write(f"dto: error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    code = main()
    settle_streams()
    sys.exit(code)
