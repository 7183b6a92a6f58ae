"""Train as a configuration file says, and log what was chosen and why.

    scripts/launch_training.sh --config examples/config.yaml

Every setting of dto/runtime/config_file.py is a flag, too, which comes before the file: --epochs 5.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dto.errors import ConfigError, DtoError
from dto.runtime.choice import Choice, choose, shard
from dto.runtime.config_file import KEYS, ConfigFile, meant, read_config
from dto.runtime.world import World, read_world

if TYPE_CHECKING:  # torch takes seconds to import, and a misspelt setting is found without it
    from models import Task


def parse() -> tuple[argparse.Namespace, dict[str, str]]:
    """The program's own options, and settings that come before those of the file."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file")
    parser.add_argument("--check", action="store_true", help="only print how many ranks it takes")
    settings = parser.add_argument_group("settings instead of the file's")
    for key in KEYS:
        if key != "model_options":
            names = dict.fromkeys((f"--{key}", f"--{key.replace('_', '-')}"))
            settings.add_argument(*names, dest=key, metavar="VALUE")
    options, strange = parser.parse_known_args()
    if strange:
        name = strange[0].lstrip("-").partition("=")[0].replace("-", "_")
        hint = f"{name} belongs into the file" if name == "model_options" else meant(name)
        raise ConfigError(f"{strange[0]} is no setting for here: {hint}")
    flags = {key: getattr(options, key, None) for key in KEYS}
    return options, {key: value for key, value in flags.items() if value is not None}


def decide(config: ConfigFile, world: int, here: int) -> tuple[Task, Choice]:
    """The model with its data, and how `world` ranks train it, `here` of them on this node."""
    import torch
    from models import build

    torch.manual_seed(config.seed)
    choice = choose(config, world, has_gpus=torch.cuda.device_count() >= here)
    task = build(config.model, config.model_options, config.data)
    return task, shard(config, choice, task.model)


def train(config: ConfigFile, task: Task, choice: Choice) -> None:
    """Tell what was chosen and why, then train."""
    import torch
    from torch.utils.data import DataLoader, Subset

    from dto import DistributedTrainer

    global_batch = config.batch_size * choice.layout.mesh.dp
    trainer = DistributedTrainer(
        strategy=choice.strategy,
        mesh=choice.mesh,
        device=choice.device,
        global_batch_size=global_batch,
        auto_scale_lr=False,
        seed=config.seed,
        checkpoint_every=config.checkpoint_every,
        **choice.options,
    )
    for reason in choice.reasons:
        trainer.log(reason)
    learnt, held_out = task.load()
    if config.samples is not None:
        learnt, held_out = (
            Subset(data, range(min(config.samples, len(data)))) for data in (learnt, held_out)
        )
    only_whole = choice.layout.mesh.pp > 1 and len(learnt) >= global_batch
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=config.lr or task.lr)
    history = trainer.fit(
        task.model,
        DataLoader(learnt, batch_size=config.batch_size, shuffle=True, drop_last=only_whole),
        optimizer,
        torch.nn.CrossEntropyLoss(),
        config.epochs,
        resume_from_checkpoint="auto",
        val_loader=DataLoader(held_out, batch_size=config.batch_size),
    )
    trainer.log(f"loss {history['train_loss'][0]:.4f} to {history['train_loss'][-1]:.4f}")


def main() -> None:
    try:
        options, flags = parse()
        config = read_config(options.config, flags)
        world = World(size=config.num_gpus) if options.check else read_world(os.environ)
        task, choice = decide(config, world.size, world.local_size)
    except DtoError as error:
        sys.stderr.write(f"train.py: {error}\n")
        sys.exit(error.exit_code)
    if options.check:
        print(world.size)
        return
    train(config, task, choice)


if __name__ == "__main__":
    main()
