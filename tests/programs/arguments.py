"""Writes its arguments and its job's name, byte for byte: arguments.py OUT [ARGS...]."""

import os
import sys

raw = [os.fsencode(argument) for argument in sys.argv[2:]]
name = os.fsencode(os.environ.get("SLURM_JOB_NAME", ""))
partial = sys.argv[1] + ".partial"
with open(partial, "wb") as file:
    file.write(b"\0".join([name, *raw]))
os.replace(partial, sys.argv[1])
