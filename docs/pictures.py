"""Draws the pictures of how-it-works.md with the code that trains: `python docs/pictures.py`.

A test compares, so that the page cannot say what the code no longer does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from dto.runtime.buckets import Spec, plan_buckets
from dto.runtime.collectives import algorithms
from dto.runtime.collectives.schedule import Schedule, elements_sent
from dto.runtime.control import CONTROLS
from dto.runtime.mesh import Mesh
from dto.runtime.parameter_server.rules import Clocks, share_out, staleness_of
from dto.runtime.pipeline.partition import count_costs, cut
from dto.runtime.pipeline.schedule import make_plan, peak_in_flight
from dto.runtime.pipeline.simulation import bubble, draw
from dto.runtime.tensor.cuts import Cut
from dto.runtime.zero.layout import lay_out

PAGE = Path(__file__).with_name("how-it-works.md")
RANKS = 4
_BLOCK = re.compile(r"(<!-- drawn: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def example() -> nn.Sequential:
    """The model of the page: four linear layers, 202 parameters."""
    widths = [4, 8, 8, 8, 2]
    pairs = zip(widths, widths[1:], strict=False)
    return nn.Sequential(*(nn.Linear(left, right) for left, right in pairs))


def buckets() -> str:
    named = list(example().named_parameters())
    specs = [Spec(tuple(p.shape), p.dtype, p.device) for _, p in named]
    lines = []
    for number, bucket in enumerate(plan_buckets(specs, CONTROLS + len(named), 300)):
        members = "  ".join(named[n][0] for n in bucket.members)
        tail = f" + {bucket.extra} more" if bucket.extra else ""
        lines.append(f"bucket {number}   {members:<42} {bucket.numel} values{tail}")
    return "\n".join(lines)


def play(schedules: Sequence[Schedule], pieces: int) -> list[list[list[set[int]]]]:
    """Whose gradients each rank has added up in each piece, round by round."""
    states = [[[{rank} for _ in range(pieces)] for rank in range(len(schedules))]]
    at = [0] * len(schedules)

    def now(rank: int, way: str) -> int | None:
        steps = schedules[rank]
        move = getattr(steps[at[rank]], way) if at[rank] < len(steps) else None
        return None if move is None else move.peer

    def is_met(rank: int) -> bool:
        source, target = now(rank, "receive"), now(rank, "send")
        return (source is None or now(source, "send") == rank) and (
            target is None or now(target, "receive") == rank
        )

    while any(at[rank] < len(steps) for rank, steps in enumerate(schedules)):
        before = states[-1]
        after = [[set(piece) for piece in row] for row in before]
        acting = [r for r, steps in enumerate(schedules) if at[r] < len(steps) and is_met(r)]
        assert acting, "ranks wait for one another"
        for rank in acting:
            step = schedules[rank][at[rank]]
            if step.receive is not None:
                for piece in range(*step.receive.span):
                    came = before[step.receive.peer][piece]
                    after[rank][piece] = came | (before[rank][piece] if step.adds else set())
        for rank in acting:
            at[rank] += 1
        states.append(after)
    return states


def rounds(algorithm: Callable[..., Schedule], ranks: int, pieces: int) -> str:
    members = range(ranks)
    states = play([algorithm(me, members, (0, pieces)) for me in members], pieces)
    width = ranks * pieces + pieces - 1
    titles = ["start", *(f"round {number}" for number in range(1, len(states)))]
    width = max(width, len(titles[-1]))
    lines = ["         " + "   ".join(title.ljust(width) for title in titles)]
    for rank in members:
        cells = [
            "|".join("".join(map(str, sorted(piece))).ljust(ranks) for piece in state[rank])
            for state in states
        ]
        lines.append(f"rank {rank}   " + "   ".join(cell.ljust(width) for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def ring() -> str:
    return rounds(algorithms.ring, 3, 3)


def tree() -> str:
    return rounds(algorithms.tree, RANKS, 1)


def costs() -> str:
    """Rounds, and the most that one rank sends, counted from the schedules."""
    lines = ["                       2 ranks        4 ranks        8 ranks        13 ranks"]
    for name in ("ring", "tree", "halving_doubling"):
        row = []
        for ranks in (2, 4, 8, 13):
            numel = 840 * ranks
            made = [getattr(algorithms, name)(me, range(ranks), (0, numel)) for me in range(ranks)]
            sent = max(sum(elements_sent(steps).values()) for steps in made) / numel
            row.append(f"{max(map(len, made)):>2} x, {sent:.2f} S".ljust(13))
        lines.append(f"{name:<20} " + "  ".join(row).rstrip())
    return "\n".join(lines)


def segments() -> str:
    """Who keeps what of the third layer's unit."""
    layer = example()[2]
    named = [(f"2.{name}", tuple(p.shape)) for name, p in layer.named_parameters()]
    layout = lay_out([n for n, _ in named], [s for _, s in named], [0] * len(named), RANKS)
    lines = []
    for rank in range(RANKS):
        parts = [part for span in layout.spans(rank) for part in span.parts]
        kept = "  ".join(f"{part.name}[{part.begin}:{part.end}]" for part in parts)
        lines.append(f"rank {rank}   {kept}")
    return "\n".join(lines)


def memory() -> str:
    """Bytes for each parameter of the model, float32 under AdamW, by the table of zero/block.py."""
    lines = ["          parameters  gradients  AdamW's state      bytes for each parameter"]
    for name, divided in (("DDP", ""), ("ZeRO 1", "o"), ("ZeRO 2", "og"), ("ZeRO 3", "ogp")):
        sizes = [
            (letter, whole / (RANKS if letter in divided else 1))
            for letter, whole in (("p", 4), ("g", 4), ("o", 8))
        ]
        widths = {"p": 12, "g": 11, "o": 19}
        bars = "".join((letter * int(2 * size)).ljust(widths[letter]) for letter, size in sizes)
        lines.append(f"{name:<9} {bars}{sum(size for _, size in sizes):g}")
    return "\n".join(lines)


def stages() -> str:
    """The cut of the example, and the schedules for six micro-batches."""
    model = example()
    found = cut(count_costs(list(model)), 3)
    lines = ["layers by stage: " + "; ".join(", ".join(map(str, part)) for part in found)]
    for schedule in ("gpipe", "1f1b"):
        held = [peak_in_flight(actions) for actions in make_plan(3, 6, schedule)]
        idle = bubble(3, 6, schedule)
        most = f"most micro-batches held by stage: {', '.join(map(str, held))}"
        lines += ["", f"{schedule}: idle {idle:.0%}; {most}", draw(3, 6, schedule)]
    idle = bubble(3, 6, "interleaved", 2)
    lines += ["", f"interleaved, 2 chunks a stage: idle {idle:.0%}"]
    return "\n".join(lines)


def cuts() -> str:
    """Which of two ranks holds each element of a weight [outputs, inputs]."""
    drawn = []
    for title, cut_, shape in (
        ("column", Cut(0), (6, 4)),
        ("row", Cut(1), (6, 4)),
        ("column:3", Cut(0, 3), (6, 4)),
    ):
        owners = torch.zeros(shape, dtype=torch.int64).view(-1)
        for rank in range(2):
            for part in cut_.parts("weight", shape, rank, 2):
                owners[part.begin : part.end] = rank
        rows = [" ".join(map(str, row)) for row in owners.view(shape).tolist()]
        drawn.append([title.ljust(12), *(row.ljust(12) for row in rows)])
    return "\n".join("   ".join(row).rstrip() for row in zip(*drawn, strict=True))


def paces() -> str:
    """Three workers, the last at half the speed: the step that each computes; `·` it waits."""
    blocks = []
    for mode, bound in (("synchronous", None), ("bounded", 2), ("asynchronous", None)):
        clocks, left = Clocks(3, staleness_of(mode, bound)), [0, 0, 0]
        rows: list[list[str]] = [[], [], []]
        for _ in range(16):
            for worker in range(3):
                if not left[worker] and clocks.may_go_on(worker):
                    left[worker] = 2 if worker == 2 else 1
            for worker in range(3):
                rows[worker].append(f"{clocks.steps[worker]:>2}" if left[worker] else " ·")
            for worker in range(3):
                left[worker] = max(left[worker] - 1, 0)
                if not left[worker] and rows[worker][-1] != " ·":
                    clocks.tick(worker)
        title = mode if bound is None else f"{mode}, staleness={bound}"
        lines = [f"worker {worker} |{' '.join(rows[worker])}" for worker in range(3)]
        blocks.append("\n".join([title, *lines]))
    return "\n\n".join(blocks)


def sent() -> str:
    """What the busiest rank sends in a step, in bytes of all gradients."""
    n = RANKS
    part = (n - 1) / n
    numels = [1] * (8 * n)

    def served(servers: int) -> float:
        shares = [len(share) / len(numels) for share in share_out(numels, servers)]
        shares += [0.0] * (n - servers)
        return max((1 - own) + (n - 1) * own for own in shares)

    rows = [
        ("one process", 0.0),
        ("DDP, ring", 2 * part),
        ("ZeRO 1, ZeRO 2", 2 * part),
        ("ZeRO 3", 3 * part),
        ("parameter server, servers=1", served(1)),
        (f"parameter server, servers={n}", served(n)),
    ]
    return "\n".join(f"{name:<30} {times:.2f} S" for name, times in rows)


def grid() -> str:
    mesh = Mesh(dp=2, pp=2, tp=2)
    lines = ["             tp 0     tp 1"]
    for dp in range(mesh.dp):
        for pp in range(mesh.pp):
            ranks = "   ".join(f"rank {mesh.rank(dp, pp, tp)}" for tp in range(mesh.tp))
            lines.append(f"dp {dp}  pp {pp}   {ranks}")
    for axis in ("dp", "pp", "tp"):
        lines.append(f"ranks that differ in {axis} alone: {mesh.groups(axis)}")
    return "\n".join(lines)


PICTURES: dict[str, Callable[[], str]] = {
    "buckets": buckets, "ring": ring, "tree": tree, "costs": costs, "segments": segments,
    "memory": memory, "stages": stages, "cuts": cuts, "paces": paces, "sent": sent, "grid": grid,
}  # fmt: skip


def fill(page: str) -> str:
    """The page with every picture drawn anew."""
    return _BLOCK.sub(lambda m: f"{m[1]}```text\n{PICTURES[m[2]]()}\n```\n{m[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text()))
