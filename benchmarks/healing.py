"""The fine-tuning that all ways of cutting get alike, with everything on one device.

Loss, optimiser, rising and falling learning rate, clipping and learning batch norms are those of `Finetune`. What a
step sees is drawn beforehand, and so are the teacher's outputs on it: they are the same for all ways.
"""

from dataclasses import dataclass

import torch
from pictures_on_device import DevicePictures, Draws
from torch import Tensor, nn
from torch.nn import functional

from secateur.artifacts import Task
from secateur.pipeline.finetune.batch_norm import learning_norms
from secateur.pipeline.finetune.memory_layout import channels_last
from secateur.pipeline.finetune.schedule import learning_rate


@dataclass(frozen=True, kw_only=True)
class Healing:
    """Settings of the fine-tuning; ``soft`` is the share of the teacher's outputs in the loss."""

    num_steps: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.1
    soft: float = 0.9
    temperature: float = 4.0
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    graphs: bool = False

    def draws(self, pictures: DevicePictures, seed: int) -> Draws:
        """Return what the steps see."""
        return Draws.of(pictures, self.num_steps, self.batch_size, seed)

    def teach(self, teacher: nn.Module, pictures: DevicePictures, draws: Draws) -> Tensor:
        """Return the teacher's outputs at every step."""
        with torch.no_grad():
            return torch.stack([
                teacher(pictures.shifted(draws.index[step], draws.shift[step], draws.mirror[step])[0])
                for step in range(self.num_steps)
            ])  # fmt: skip

    def __call__(self, student: nn.Module, task: Task, pictures: DevicePictures, draws: Draws, taught: Tensor) -> None:
        """Train a network in place, and leave it in eval mode."""
        _Run(self, student, task, pictures, draws, taught).run()


class _Run:
    """One training under way; a step reads nothing from the host, so that it can be recorded and played again."""

    def __init__(
        self, settings: Healing, student: nn.Module, task: Task, pictures: DevicePictures, draws: Draws, taught: Tensor
    ) -> None:
        picture, _ = pictures.shifted(draws.index[0, :1], draws.shift[0, :1], draws.mirror[0, :1])
        self._settings, self._task = settings, task
        self._student = channels_last(student, (picture,)).requires_grad_(True)
        self._pictures, self._draws, self._taught = pictures, draws, taught
        device = taught.device
        on_gpu = device.type == "cuda"
        rates = [
            learning_rate(step, settings.num_steps, settings.learning_rate, settings.warmup)
            for step in range(settings.num_steps)
        ]
        self._rates = torch.tensor(rates, device=device)
        self._number, self._rate = torch.zeros(1, dtype=torch.int64, device=device), torch.zeros((), device=device)
        self._parameters = list(student.parameters())
        decaying = [p for p in self._parameters if p.ndim >= 2]
        others = [p for p in self._parameters if p.ndim < 2]
        groups = [{"params": decaying, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=self._rate, capturable=on_gpu, foreach=on_gpu)
        self._recorded = settings.graphs and on_gpu

    def run(self) -> None:
        student, settings = self._student.eval(), self._settings
        for norm in learning_norms(student, "auto", settings.batch_size):
            norm.train()
        left = settings.num_steps
        if self._recorded and left > 4:
            left -= self._play(left)
        for _ in range(left):
            self._step()
        student.eval()
        self._optimizer.zero_grad()

    def _play(self, num_steps: int) -> int:
        """Take three steps, record one, play it for the others; return how many were taken."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._step()
        except RuntimeError as error:
            print(f"a step could not be recorded: {error}", flush=True)
            torch.cuda.synchronize()
            return 3
        for _ in range(num_steps - 3):
            graph.replay()
        torch.cuda.synchronize()
        return num_steps

    def _step(self) -> None:
        settings, draws = self._settings, self._draws
        self._rate.copy_(self._rates.index_select(0, self._number)[0])
        index, shift, mirror, theirs = (
            each.index_select(0, self._number)[0] for each in (draws.index, draws.shift, draws.mirror, self._taught)
        )
        inputs, labels = self._pictures.shifted(index, shift, mirror)
        outputs = self._student(inputs)
        loss = (1 - settings.soft) * functional.cross_entropy(outputs, labels)
        if settings.soft:
            loss = loss + settings.soft * self._task.distill(outputs, theirs, settings.temperature).mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, settings.clip_norm)
        self._optimizer.step()
        self._number.add_(1)
