"""The models and readers that the examples are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dto.errors import ConfigError, DtoError
from examples import cifar, models
from examples.resnet import ResNet18
from examples.tiny_gpt import TinyGPT
from tests.cifar_files import write_tiny_cifar
from tests.helpers import EXAMPLES


def test_resnet_18_has_the_known_number_of_parameters_and_ten_outputs() -> None:
    model = ResNet18()
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962
    assert ResNet18(width=4)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_cifar_is_read_from_its_binary_format(tmp_path: Path) -> None:
    folder = write_tiny_cifar(tmp_path, images_per_file=4)
    train, held_out = cifar.load(tmp_path)
    assert (len(train), len(held_out)) == (20, 4)
    raw = np.fromfile(folder / "test_batch.bin", dtype=np.uint8)
    image, label = held_out[1]
    assert int(label) == raw[cifar.RECORD]
    green_of_second = raw[cifar.RECORD + 1 + 1024] / 255
    assert float(image[1, 0, 0]) == pytest.approx((green_of_second - 0.4822) / 0.2435, abs=1e-6)
    augmented, _ = train[0]
    assert augmented.shape == (3, 32, 32) and augmented.dtype == torch.float32


def test_missing_or_broken_cifar_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DtoError, match=r"download https://\S+cifar-10-binary.tar.gz .* tar -xzf"):
        cifar.load(tmp_path)
    folder = write_tiny_cifar(tmp_path, images_per_file=2)
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DtoError, match="not a multiple of 3073: download again"):
        cifar.load(tmp_path)
    path.write_bytes(bytes([10]) * cifar.RECORD)
    with pytest.raises(DtoError, match="label above 9"):
        cifar.load(tmp_path)


@pytest.mark.parametrize(
    ("model", "batch"),
    [
        (ResNet18(width=4), torch.zeros(2, 3, 32, 32)),
        (TinyGPT(8, 12, heads=3, layers=2), torch.arange(16).reshape(2, 8)),
    ],
    ids=["resnet", "tiny_gpt"],
)
def test_stages_one_after_the_other_are_the_model(model: nn.Module, batch: torch.Tensor) -> None:
    stages = model.pipeline_stages()  # type: ignore[operator]
    value = batch
    for stage in stages:
        value = stage(value)
    torch.testing.assert_close(value, model(batch), rtol=0, atol=0)
    assert {p for stage in stages for p in stage.parameters()} == set(model.parameters())


def test_the_names_of_tiny_gpts_weights_are_those_that_checkpoints_have() -> None:
    assert [name for name in TinyGPT(8, 12, 3, 1).state_dict() if "layers" not in name] == [
        "token.weight", "place.weight", "norm.weight", "norm.bias", "head.weight"
    ]  # fmt: skip


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="a width of 10 does not divide into 4 heads"):
        TinyGPT(8, 10, heads=4, layers=1)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_model_by_name_takes_its_own_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    task = models.build(name, {"width": 4} if name == "resnet18" else {}, None)
    for part in task.load():
        inputs, targets = part[0]
        loss = torch.nn.functional.cross_entropy(task.model(inputs[None]), targets[None])
        assert loss.isfinite()


@pytest.mark.parametrize(
    ("name", "sizes", "data", "words"),
    [
        ("bert", {}, None, "no model 'bert': use one of transformer, resnet18, mlp"),
        ("mlp", {}, "data", "model mlp brings its own data"),
        ("resnet18", {}, "nowhere", "CIFAR-10 is not in nowhere"),
        ("transformer", {"depth": 3}, None, "model_options are context, width, heads, layers"),
        ("transformer", {"width": 5, "heads": 2}, None, "5 does not divide into 2 heads"),
    ],
)
def test_a_model_that_cannot_be_is_one_line(
    name: str,
    sizes: dict[str, int],
    data: str | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    with pytest.raises(DtoError, match=words):
        models.build(name, sizes, None if data is None else Path(data))
