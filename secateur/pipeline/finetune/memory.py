"""What a training hands on to the one after the next cut."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.artifacts import Model
from secateur.pipeline.finetune.anchor import channels_left
from secateur.pipeline.structure import Plan, Structure
from secateur.pipeline.structure.optimizer import cut_state

__all__ = ["Memory"]


@dataclass(kw_only=True, eq=False)
class Memory:
    """How many steps a network was trained in all, and what its optimiser remembers of each parameter, by name.

    `Finetune` goes on from it, with the samples that come next and with means that are warm, and leaves in it what the
    next training goes on from. In between it follows the network's cut, or only counts on and forgets the rest.
    """

    num_steps: int = 0
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def follow(self, before: Model, structure: Structure, after: Model) -> None:
        """Forget what belongs to the channels that a cut took from ``before``, whose structure is given.

        Raises TrainingError where ``after`` has channels that ``before`` has not, TraceError where the structure is
        that of another network.
        """
        masks = channels_left(before, after, structure.groups)
        plan = Plan.of(structure, {name: torch.from_numpy(mask) for name, mask in masks.items()})
        self.state = cut_state(self.state, before.module, structure, plan)

    def forget(self) -> None:
        """Let the next optimiser begin anew, on samples that were not seen yet."""
        self.state = {}

    def recall(self, module: nn.Module, optimizer: Optimizer) -> None:
        """Give the optimiser of a network what is remembered of its parameters."""
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        own = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        known = {number: self.state[name] for number, name in enumerate(own) if name in self.state}
        copies = {number: {key: value.clone() for key, value in state.items()} for number, state in known.items()}
        optimizer.load_state_dict({"state": copies, "param_groups": optimizer.state_dict()["param_groups"]})

    def keep(self, module: nn.Module, optimizer: Optimizer, num_steps: int) -> None:
        """Remember an optimiser's state after so many steps in all."""
        self.num_steps = num_steps
        self.state = {
            name: {k: v.detach().cpu().clone() for k, v in optimizer.state[parameter].items() if isinstance(v, Tensor)}
            for name, parameter in module.named_parameters()
            if parameter in optimizer.state
        }

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """All that is remembered, by names of its own."""
        return {f"{name}.{key}": value for name, state in self.state.items() for key, value in state.items()}
