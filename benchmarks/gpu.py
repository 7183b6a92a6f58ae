"""On one GPU: a step through the trainer over the bare loop, and the MFU of a GPT in bf16."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.ranks import run_ranks
from benchmarks.report import LeftOut, Measure, ratio, summary
from benchmarks.step_cases import Case, by_trainer
from benchmarks.workloads import WORKLOADS, Workload, gpt, texts
from dto.runtime.transport.local import LocalTransport

_PEAK_TFLOPS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10G": 70}
"""Dense bf16 of the makers' data sheets; BENCH_PEAK_TFLOPS names that of another GPU."""
_CONTEXT, _WIDTH, _LAYERS, _BATCH = 1024, 1024, 28, 8


def run(quick: bool) -> list[Measure]:
    if not torch.cuda.is_available():
        raise LeftOut("needs a GPU that torch can use")
    found = run_ranks("gpu", "nccl", 1, {"BENCH_BLOCKS": "5" if quick else "30"})
    measures = []
    for name in ("tiny_gpt", "resnet18"):
        rows = found[name]
        measures += [
            ratio(f"gpu.{name}.trainer_over_bare", rows["dto"], rows["bare"]),
            ratio(f"gpu.{name}.a_over_a", rows["again"], rows["bare"]),
        ]
    flops = found["flops"]
    rates = [flops / seconds / 1e12 for seconds in found["gpt_350m"]]
    measures.append(summary("gpu.gpt_350m_bf16.rate", "TFLOP/s", rates))
    peak = _peak()
    if peak:
        mfu = [100 * rate / peak for rate in rates]
        measures.append(summary("gpu.gpt_350m_bf16.mfu", "percent", mfu))
    return measures


def _peak() -> float:
    """What the GPU could do at most, in TFLOP/s; 0 where nobody says."""
    name = torch.cuda.get_device_name()
    known = next((peak for part, peak in _PEAK_TFLOPS.items() if part in name), 0)
    return float(os.environ.get("BENCH_PEAK_TFLOPS", known))


def _bare(workload: Workload) -> Case:
    """The loop that nobody helps; like the trainer it reads the loss at the end only."""
    device = torch.device("cuda")
    model = workload.build().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = workload.samples(workload.batch * workload.steps)
    loader = DataLoader(data, workload.batch, shuffle=True)

    def case() -> float:
        began = time.perf_counter()
        total = torch.zeros((), device=device)
        for inputs, targets in loader:
            inputs, targets = inputs.to(device), targets.to(device)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()
        return (time.perf_counter() - began) / workload.steps

    return case


def _gpt_350m() -> tuple[Callable[[], float], float]:
    """Steps on one batch, and the operations of each: 6 N + 12 L h s a token (PaLM, app. B)."""
    device = torch.device("cuda")
    model = gpt(_WIDTH, 16, _LAYERS, _CONTEXT).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs, targets = (part.to(device) for part in texts(_BATCH, _CONTEXT).tensors)
    count = sum(parameter.numel() for parameter in model.parameters())
    flops = (6 * count + 12 * _LAYERS * _WIDTH * _CONTEXT) * _BATCH * _CONTEXT

    def case() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()
        return time.perf_counter() - began

    return case, float(flops)


def rank_main() -> None:
    blocks = int(os.environ["BENCH_BLOCKS"])
    told: dict[str, object] = {}
    order = random.Random(0)
    for name in ("tiny_gpt", "resnet18"):
        bare = _bare(WORKLOADS[name])
        cases = {"dto": by_trainer(WORKLOADS[name], LocalTransport()), "bare": bare, "again": bare}
        for case in cases.values():
            case()
        rows = {side: list[float]() for side in cases}
        for _ in range(blocks):
            for side in order.sample(sorted(cases), len(cases)):
                rows[side].append(cases[side]())
        told[name] = rows
    step, told["flops"] = _gpt_350m()
    for _ in range(3):
        step()
    told["gpt_350m"] = [step() for _ in range(blocks)]
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    rank_main()
