"""A small GPT that learns the English of Python's own help pages, byte by byte.

python examples/tiny_gpt.py                    # one process
dto run -n 2 examples/tiny_gpt.py --epochs 3   # two, the same global batch
dto run -n 4 examples/tiny_gpt.py --strategy zero1 --mesh dp=2,pp=2   # cut, too
"""

from __future__ import annotations

import argparse
import math
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dto import DistributedTrainer
from dto.errors import ConfigError

BYTES = 256


class Layer(nn.Module):
    """Causal attention and a feed-forward part, each behind a LayerNorm (GPT-2's order)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"a width of {width} does not divide into {heads} heads")
        self.head_width = width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        # [batch, time, width] -> three of [batch, heads, time, width / heads]; under tensor
        # parallelism the heads are those that this rank holds
        q, k, v = (
            part.unflatten(2, (-1, self.head_width)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, dim=2)
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        out: Tensor = x + self.feed(self.norm2(x))
        return out


class Start(nn.Module):
    """Bytes and their places to [batch, time, width]."""

    def __init__(self, token: nn.Embedding, place: nn.Embedding) -> None:
        super().__init__()
        self.token, self.place = token, place

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x: Tensor = self.token(ids) + self.place(places)
        return x


class End(nn.Module):
    """[batch, time, width] to logits [batch, BYTES, time], as CrossEntropyLoss wants them."""

    def __init__(self, norm: nn.LayerNorm, head: nn.Linear) -> None:
        super().__init__()
        self.norm, self.head = norm, head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(x))
        return logits.transpose(1, 2)


class TinyGPT(nn.Module):
    """Predicts the next byte at every place; the output layer shares the embedding's weights."""

    def __init__(self, context: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.context, self.head_width = context, width // heads
        self.token = nn.Embedding(BYTES, width)
        self.place = nn.Embedding(context, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, BYTES, bias=False)
        for embedding in (self.token, self.place):
            nn.init.normal_(embedding.weight, std=0.02)
        self.head.weight = self.token.weight
        # in a tuple they are no submodules: weights are named as they lie here
        self._ends = Start(self.token, self.place), End(self.norm, self.head)

    def forward(self, ids: Tensor) -> Tensor:
        start, end = self._ends
        logits: Tensor = end(self.layers(start(ids)))
        return logits

    def pipeline_stages(self) -> list[nn.Module]:
        """What a pipeline may cut between."""
        start, end = self._ends
        return [start, *self.layers, end]

    def tensor_plan(self) -> dict[str, str]:
        """What tensor parallelism cuts: attention by heads, the feed-forward part by its middle."""
        return {
            "layers.*.qkv": f"column:3x{self.head_width}",
            "layers.*.out": "row",
            "layers.*.feed.0": "column",
            "layers.*.feed.2": "row",
            "layers": "sequence",
        }

    @torch.no_grad()
    def write(self, prompt: str, length: int, seed: int = 0) -> str:
        """Go on from `prompt`, drawing each next byte from the model's probabilities."""
        generator = torch.Generator().manual_seed(seed)
        device = self.head.weight.device
        ids = torch.tensor([list(prompt.encode())], device=device)
        for _ in range(length):
            logits = self(ids[:, -self.context :])[0, :, -1].cpu()
            drawn = torch.multinomial((logits / 0.8).softmax(0), 1, generator=generator)
            ids = torch.cat([ids, drawn.reshape(1, 1).to(device)], dim=1)
        return bytes(ids[0].tolist()).decode(errors="replace")


def load_text(context: int, limit: int | None = None) -> tuple[TensorDataset, TensorDataset]:
    """Windows of the text and the same windows one byte on; the last tenth is held out."""
    text = "\n\n".join(topics[name] for name in sorted(topics)).encode()[:limit]
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    count = (len(ids) - 1) // context
    inputs = ids[: count * context].reshape(count, context)
    targets = ids[1 : count * context + 1].reshape(count, context)
    cut = count * 9 // 10
    return TensorDataset(inputs[:cut], targets[:cut]), TensorDataset(inputs[cut:], targets[cut:])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32, help="over all workers")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--text-bytes", type=int, help="use only the beginning of the text")
    parser.add_argument("--checkpoint-every", default="200steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", default="ddp", help="ddp, zero1 to zero3, pipeline, ...")
    parser.add_argument("--mesh", type=mesh, metavar="dp=2,pp=2", help="sizes of dp, pp and tp")
    parser.add_argument("--precision", default="fp32", help="fp32, bf16 or fp16")
    return parser.parse_args()


def mesh(text: str) -> dict[str, int]:
    """ "dp=2,pp=2" as DistributedTrainer wants it."""
    try:
        return {axis: int(size) for axis, size in (one.split("=") for one in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like dp=2,pp=2") from None


def main() -> None:
    options = parse()
    torch.manual_seed(options.seed)
    trainer = DistributedTrainer(
        auto_scale_lr=False,
        global_batch_size=options.batch_size,
        checkpoint_every=options.checkpoint_every,
        seed=options.seed,
        strategy=options.strategy,
        mesh=options.mesh,
        precision=options.precision,
    )
    has_stages = trainer.session.layout.mesh.pp > 1  # which a small last batch may not fill
    train, held_out = load_text(options.context, options.text_bytes)
    model = TinyGPT(options.context, options.width, options.heads, options.layers)
    history = trainer.fit(
        model,
        DataLoader(train, batch_size=options.batch_size, shuffle=True, drop_last=has_stages),
        torch.optim.AdamW(model.parameters(), lr=options.lr),
        nn.CrossEntropyLoss(),
        options.epochs,
        resume_from_checkpoint="auto",
        val_loader=DataLoader(held_out, batch_size=options.batch_size),
    )
    with trainer.whole():  # a rank may hold a part of the model only
        if trainer.is_master():
            loss = history["val_loss"][-1]
            print(f"loss {history['train_loss'][-1]:.6f}")
            print(f"held-out loss {loss:.4f} ({loss / math.log(2):.3f} bits per byte)")
            print(f"--- it writes ---\n{model.write('The ', 200, options.seed)}")


if __name__ == "__main__":
    main()
