"""Models by name, each with data it learns from: what `model:` of a configuration file means."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from dto.errors import ConfigError

Data = tuple[Dataset[Any], Dataset[Any]]


@dataclass(frozen=True)
class Task:
    """A model, a learning rate for AdamW, and what loads the data: to learn from, and held out."""

    model: nn.Module
    lr: float
    load: Callable[[], Data]


def transformer(context: int = 64, width: int = 64, heads: int = 4, layers: int = 4) -> Task:
    """A small GPT on Python's own help pages."""
    from tiny_gpt import TinyGPT, load_text

    return Task(TinyGPT(context, width, heads, layers), 3e-3, lambda: load_text(context))


def resnet18(data: Path | None = None, width: int = 16) -> Task:
    """ResNet-18 on CIFAR-10 in the folder `data`; without one, on enlarged digits."""
    import cifar
    from resnet import ResNet18

    if data is not None:
        cifar.find(data)  # refuses a folder without it
        return Task(ResNet18(width=width), 1e-3, lambda: cifar.load(data))
    return Task(ResNet18(width=width), 1e-3, _enlarged_digits)


def mlp(hidden: int = 128) -> Task:
    """Three linear layers on the handwritten digits that scikit-learn carries."""
    digits = _digits()
    return Task(digits.SimpleNet(64, hidden, 10, dropout_rate=0.0).layers, 3e-3, digits.load_data)


MODELS: dict[str, Callable[..., Task]] = {
    "transformer": transformer,
    "resnet18": resnet18,
    "mlp": mlp,
}


def build(name: str, sizes: Mapping[str, int], data: Path | None) -> Task:
    """Make a model by name.

    Raises:
        ConfigError: there is no such model, or it has no such size, or it takes no data.
    """
    if name not in MODELS:
        raise ConfigError(f"there is no model {name!r}: use one of {', '.join(MODELS)}")
    known = list(inspect.signature(MODELS[name]).parameters)
    if data is not None and "data" not in known:
        raise ConfigError(f"model {name} brings its own data: leave the setting `data` out")
    legal = [size for size in known if size != "data"]
    unknown = [size for size in sizes if size not in legal]
    if unknown:
        raise ConfigError(
            f"model {name} has no option {unknown[0]!r}: its model_options are {', '.join(legal)}"
        )
    return MODELS[name](**sizes, **({"data": data} if data is not None else {}))


def _digits() -> ModuleType:
    try:
        import simple_net
    except ImportError as error:
        raise ConfigError(f"its data come with {error.name}: pip install scikit-learn") from None
    return simple_net


def _enlarged_digits() -> Data:
    train, held_out = _digits().load_data()
    return _enlarged(train), _enlarged(held_out)


def _enlarged(digits: TensorDataset) -> TensorDataset:
    """Grey [n, 64] to the shape of CIFAR-10's images, [n, 3, 32, 32]."""
    images, labels = digits.tensors
    squares: Tensor = images.reshape(-1, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return TensorDataset(squares.expand(-1, 3, -1, -1), labels)
