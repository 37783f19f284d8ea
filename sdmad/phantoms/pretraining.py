"""Train the embedded backbone on phantoms of the seen organs, with Ray Train.

The loss is 0.5 times InfoNCE between images and captions plus 3.0 times the binary cross-entropy of
each image against one phrase per sign (a sigmoid loss over a small vocabulary). The organ of the
few-shot task and its look are held out. The signs are not: CLIP, too, has seen the words of its
prompts in training.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from pydantic import BaseModel, ConfigDict
from ray.train import RunConfig, ScalingConfig
from safetensors.torch import save_file
from torch import nn

from sdmad.phantoms import backbone
from sdmad.phantoms.anatomy import SEEN_ORGANS
from sdmad.phantoms.captions import NORMAL_PHRASES, SIGN_PHRASES, caption
from sdmad.phantoms.render import SEEN_LOOK, render
from sdmad.phantoms.signs import SIGNS
from sdmad.runtime.cluster import kept_in_memory


class PretrainConfig(BaseModel):
    """Settings of the training; the default `steps` made the shipped weights."""

    model_config = ConfigDict(extra="forbid")
    steps: int = 1600
    images_per_worker: int = 64
    workers: int = 2
    cpus_per_worker: float = 1.0
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    seed: int = 0


class ContrastiveModel(nn.Module):
    """A CLIP whose forward pass is the loss, so that one wrapper synchronises all gradients."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip = clip
        self.sign_scale = nn.Parameter(torch.tensor(2.3))
        self.sign_bias = nn.Parameter(torch.tensor(-2.0))

    def forward(
        self,
        images: torch.Tensor,
        captions: torch.Tensor,
        phrases: torch.Tensor,
        shown: torch.Tensor,
    ) -> torch.Tensor:
        """Loss of images (B, 3, 64, 64), captions (B, L), phrases (M, L), shown (B, M) 0 or 1."""
        v = F.normalize(self.clip.visual(images), dim=-1)
        texts = F.normalize(self.clip.encode_text(torch.cat([captions, phrases])), dim=-1)
        t, signs = texts[: len(captions)], texts[len(captions) :]
        logits = self.clip.logit_scale.exp().clamp(max=100) * v @ t.T
        target = torch.arange(len(v))
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        sign_logits = self.sign_scale.exp() * v @ signs.T + self.sign_bias
        presence = F.binary_cross_entropy_with_logits(sign_logits, shown)
        return 0.5 * contrast + 3.0 * presence


def draw_batch(rng: np.random.Generator, size: int) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Images (B, 3, 64, 64) float in [0, 1], captions, and shown (B, signs + 1); normal is last."""
    images, captions = [], []
    shown = np.zeros((size, len(SIGNS) + 1), np.float32)
    names = list(SIGNS)
    for row in range(size):
        chosen = rng.choice(len(names), rng.choice(5, p=[0.15, 0.3, 0.25, 0.2, 0.1]), replace=False)
        signs = {names[k] for k in chosen}
        organ = str(rng.choice(SEEN_ORGANS))
        images.append(render(rng, organ, signs, SEEN_LOOK).image)
        captions.append(caption(rng, organ, signs))
        shown[row, chosen] = 1
        shown[row, -1] = len(signs) == 0
    pixels = torch.from_numpy(np.stack(images)).float() / 255
    if rng.random() < 0.5:
        pixels = pixels.flip(-1)
    return pixels[:, None].expand(-1, 3, -1, -1), captions, torch.from_numpy(shown)


def draw_phrases(rng: np.random.Generator) -> list[str]:
    """One phrase for each sign and one for normal, in the order of `shown`."""
    return [str(rng.choice(SIGN_PHRASES[s])) for s in SIGNS] + [str(rng.choice(NORMAL_PHRASES))]


def train_loop(settings: dict[str, Any]) -> None:
    """The training loop of one worker; rank 0 writes the checkpoint at the end."""
    config = PretrainConfig(**settings["config"])
    output = Path(settings["output"])
    rank = ray.train.get_context().get_world_rank()
    torch.manual_seed(config.seed)
    with tempfile.TemporaryDirectory() as scratch:
        backbone.write_merges(Path(scratch) / backbone.MERGES)
        tokenizer = backbone.load_tokenizer(Path(scratch))
    inner = ContrastiveModel(CLIP(**backbone.MODEL))
    model = ray.train.torch.prepare_model(inner)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.1
    )
    mean: float = backbone.PREPROCESS["mean"][0]
    std: float = backbone.PREPROCESS["std"][0]
    start = time.monotonic()
    for step in range(config.steps):
        rng = np.random.Generator(np.random.Philox(key=[config.seed * 1000 + rank, step]))
        images, captions, shown = draw_batch(rng, config.images_per_worker)
        loss = model(
            (images - mean) / std, tokenizer(captions), tokenizer(draw_phrases(rng)), shown
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step + 1 == config.steps:
            seconds = time.monotonic() - start
            ray.train.report({"step": step, "loss": loss.item(), "seconds": seconds})
            if rank == 0:
                print(f"step {step:5d}  loss {loss.item():.3f}  {seconds:6.0f} s", flush=True)
    if rank == 0:
        save_checkpoint(inner.clip, output, config)


def save_checkpoint(clip: CLIP, output: Path, config: PretrainConfig) -> None:
    """Write a checkpoint for open_clip's `local-dir:`: configuration, weights and merges.

    Weights are stored as float16; a model that loads them computes in float32.
    """
    output.mkdir(parents=True, exist_ok=True)
    backbone.write_merges(output / backbone.MERGES)
    state = {k: v.detach().half().contiguous() for k, v in clip.state_dict().items()}
    save_file(
        state,
        output / "open_clip_model.safetensors",
        metadata={"training": config.model_dump_json()},
    )
    description = {"model_cfg": backbone.MODEL, "preprocess_cfg": backbone.PREPROCESS}
    (output / "open_clip_config.json").write_text(json.dumps(description, indent=2) + "\n")


def pretrain(config: PretrainConfig, output: Path) -> None:
    """Train on `config.workers` Ray Train workers and write the checkpoint to `output`."""
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"config": config.model_dump(), "output": str(output.resolve())},
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=False,
            resources_per_worker={"CPU": config.cpus_per_worker},
        ),
        run_config=RunConfig(name="pretrain", **kept_in_memory()),
    )
    trainer.fit()
