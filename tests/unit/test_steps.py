"""A step by recipe, in one process: whatever is changed about it, the result is that of a loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dto
from dto.errors import UsageError
from dto.runtime.steps import split

SAMPLES, BATCH, EPOCHS = 21, 8, 2  # the last batch of an epoch has 5 samples


@pytest.fixture(autouse=True)
def _own_hook() -> Iterator[None]:
    hook = sys.excepthook
    yield
    sys.excepthook = hook


def net() -> nn.Sequential:
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2))
    return nn.Sequential(*blocks, nn.Linear(6, 3))


def data(dtype: torch.dtype) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)
    return TensorDataset(x.to(dtype), torch.arange(SAMPLES) % 3)


def fit(
    folder: Path,
    model: nn.Module | None = None,
    dtype: torch.dtype = torch.float64,
    criterion: Any = nn.functional.cross_entropy,
    train_step_fn: Any = None,
    **options: Any,
) -> tuple[nn.Module, Any]:
    """A fit without a checkpoint: the model, and its trainer."""
    trainer = dto.DistributedTrainer(
        seed=1, run_dir=folder, verbose=False, checkpoint_interval=0, **options
    )
    model = (net() if model is None else model).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    loader = DataLoader(data(dtype), batch_size=BATCH)
    trainer.fit(model, loader, optimizer, criterion, EPOCHS, train_step_fn)
    return model, trainer


def by_hand(clip: float | None = None) -> nn.Module:
    model = net().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(EPOCHS):
        for x, y in DataLoader(data(torch.float64), batch_size=BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return model


def apart(left: nn.Module, right: nn.Module) -> float:
    pairs = zip(left.parameters(), right.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_accumulating_pieces_equals_the_whole_batch(tmp_path: Path, steps: int) -> None:
    calls = [0]

    def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return nn.functional.cross_entropy(outputs, targets)

    model, trainer = fit(tmp_path, criterion=criterion, accumulation_steps=steps)
    assert apart(model, by_hand()) <= 1e-14
    assert trainer.session.step == EPOCHS * 3
    assert calls == [EPOCHS * (2 * steps + min(steps, 5))]


def test_pieces_of_nested_batches_keep_their_form() -> None:
    inputs = {"x": torch.arange(5), "more": (torch.arange(10).view(5, 2), "name")}
    pieces = split(inputs, [torch.arange(5)], 2)
    assert [share for share, _, _ in pieces] == [0.4, 0.6]
    assert [len(some["x"]) for _, some, _ in pieces] == [2, 3]
    assert pieces[1][1]["more"][0].tolist() == [[4, 5], [6, 7], [8, 9]]
    assert pieces[1][1]["more"][1] == "name"
    assert pieces[0][2][0].tolist() == [0, 1]
    with pytest.raises(UsageError, match="accumulation_steps cuts batches of tensors, .* not str"):
        split("text", None, 2)


@pytest.mark.parametrize("options", [{}, {"accumulation_steps": 2}], ids=["whole", "pieces"])
def test_clipping_is_torchs(tmp_path: Path, options: dict[str, Any]) -> None:
    model, _ = fit(tmp_path, clip_grad_norm=0.05, **options)
    assert apart(model, by_hand(clip=0.05)) <= 1e-14
    assert apart(model, by_hand()) > 1e-3


def test_clipping_by_hand_is_torchs_for_a_model_of_ones_own() -> None:
    left, right = net(), net()
    for model in (left, right):
        model(torch.ones(2, 6)).square().sum().backward()
    norm = dto.clip_grad_norm_(left, 0.1)
    assert norm == nn.utils.clip_grad_norm_(right.parameters(), 0.1)
    assert torch.equal(left[2].weight.grad, right[2].weight.grad)


def test_bf16_multiplies_in_bf16_and_keeps_weights_in_fp32(tmp_path: Path) -> None:
    model, kinds = net(), set()
    model[0][0].register_forward_hook(lambda *given: kinds.add(given[2].dtype))
    fit(tmp_path / "bf16", model, torch.float32, precision="bf16", accumulation_steps=2)
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact, _ = fit(tmp_path / "fp32", dtype=torch.float32)
    assert 0 < apart(model, exact) < 0.03


def test_an_overflow_in_fp16_skips_the_step_and_halves_the_scale(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    model = net()

    def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(model[2].weight.detach().clone())
        loss = nn.functional.cross_entropy(outputs.float(), targets)
        return loss * 1e36 if len(seen) == 3 else loss

    _, trainer = fit(
        tmp_path, model, torch.float32, criterion, precision="fp16", clip_grad_norm=10.0
    )
    assert torch.equal(seen[3], seen[2]) and not torch.equal(seen[2], seen[1])
    assert trainer.session.step == EPOCHS * 3 - 1
    [stepper] = trainer._steppers.values()
    assert stepper.scaler.get_scale() == 2.0**15
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.fixture
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.usefixtures("_as_before")
def test_deterministic_runs_have_the_same_bits_and_refuse_what_has_not(tmp_path: Path) -> None:
    import os

    def train(name: str) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.3), nn.Linear(9, 3))
        for number, parameter in enumerate(model.parameters()):
            nn.init.constant_(parameter, 0.1 * (number + 1))
        return fit(tmp_path / name, model, deterministic=True)[0]

    assert apart(train("first"), train("second")) == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))


def test_computing_again_equals_keeping(tmp_path: Path) -> None:
    model, _ = fit(tmp_path, activation_checkpointing=True, accumulation_steps=2)
    assert apart(model, by_hand()) <= 1e-14


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_that_came_compiled_is_saved_by_its_plain_names(tmp_path: Path) -> None:
    compiled = torch.compile(net(), backend="eager")
    model, trainer = fit(tmp_path, compiled, global_batch_size=BATCH)
    assert apart(model, by_hand()) <= 1e-14
    trainer.session.save()
    plain, fresh = net().double(), torch.compile(net().double(), backend="eager")
    found = trainer.load_checkpoint(trainer.get_latest_checkpoint(), plain)
    assert found["step"] == EPOCHS * 3 and apart(plain, model) == 0
    [final] = tmp_path.glob("**/final_model_*.pt")
    for other in (net().double(), fresh):
        trainer.load_final_model(final, other)
        assert apart(other, model) == 0
    names = torch.load(final, weights_only=True)["model_state_dict"]
    assert list(names) == list(plain.state_dict())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_training_equals_plain_training(tmp_path: Path) -> None:
    model, trainer = fit(tmp_path, compile={"backend": "aot_eager"}, accumulation_steps=2)
    assert apart(model, by_hand()) <= 1e-12
    assert list(model.state_dict()) == list(net().state_dict())


def test_options_that_a_train_step_fn_would_ignore_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="so accumulation_steps, precision would have no effect"):
        fit(
            tmp_path, train_step_fn=lambda **_: {"loss": 0.0}, accumulation_steps=2,
            precision="bf16",
        )  # fmt: skip
