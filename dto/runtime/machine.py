"""What a node has to compute and to talk with, as far as it says so itself."""

from __future__ import annotations

from pathlib import Path

import torch

_NET = Path("/sys/class/net")


def describe_machine(net: Path = _NET, gpus: list[str] | None = None) -> str:
    """ "2 x NVIDIA H100, ib0 400 Gbit/s, eth0 25 Gbit/s": GPUs of this process, and network cards.

    A card counts if it is a device (no bridge, no loopback) and is up. A virtual one often does not
    know its speed.
    """
    names = _gpus() if gpus is None else gpus
    kinds = [f"{names.count(kind)} x {kind}" for kind in dict.fromkeys(names)] or ["no GPU"]
    return ", ".join([*kinds, *_cards(net)])


def _gpus() -> list[str]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(number) for number in range(count)]


def _cards(net: Path) -> list[str]:
    found = []
    for card in sorted(net.iterdir()) if net.is_dir() else []:
        if not (card / "device").exists() or _read(card / "operstate") != "up":
            continue
        megabits = _read(card / "speed")
        speed = f"{int(megabits) / 1000:g} Gbit/s" if megabits.isdigit() else "of unknown speed"
        found.append((-int(megabits) if megabits.isdigit() else 0, f"{card.name} {speed}"))
    return [text for _, text in sorted(found)]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # a card that is down has no speed
        return ""
