"""A rank that runs what it is told, line by line, until its input ends."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # `tests` and `dto` as the parent sees them

from dto.errors import DtoError
from dto.runtime.transport import Transport, open_transport
from dto.runtime.world import read_world


def run(order: dict[str, Any], transport: Transport) -> dict[str, Any]:
    module, function = order["case"].rsplit(".", 1)
    case = getattr(importlib.import_module(f"tests.ranks.{module}"), function)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return {"value": case(transport, **order["arguments"])}
    except DtoError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except Exception as error:
        traceback.print_exc()
        return {"error": traceback.format_exc(limit=-3), "kind": type(error).__name__}
    finally:
        gc.collect()


def main() -> None:
    world = read_world(os.environ)
    torch.set_num_threads(1)
    faulthandler.register(signal.SIGUSR1)  # where does it hang?
    whole = open_transport(os.environ["DTO_BACKEND"], world, torch.device("cpu"), os.environ)
    parts: dict[int, Transport] = {world.size: whole}
    if "split" in whole.capabilities:
        for size in range(1, world.size):
            others = [[rank] for rank in range(size, world.size)]
            parts[size] = whole.split([list(range(size)), *others])
    print("answer ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        is_in = world.rank < order["world"]
        answer = run(order, parts[order["world"]]) if is_in else {}
        print("answer " + json.dumps(answer), flush=True)
    whole.close()


if __name__ == "__main__":
    main()
