"""What is recorded without values is what torch.export captures."""

import pytest
import torch
from networks import SelfAttention, lowered, scaled
from torch import nn
from torchvision import models

from secateur.errors import TraceError
from secateur.pipeline.structure import trace
from secateur.pipeline.structure.capture import capture, exported
from secateur.pipeline.structure.copying import tensors
from secateur.pipeline.structure.follow import follow
from secateur.pipeline.structure.groups import Settings, assemble
from secateur.pipeline.structure.labels import Flow
from secateur.pipeline.structure.recording import UnrecordedError, record


class Counted(nn.Module):
    """Write into a buffer and return a constant and an input beside what is computed."""

    def __init__(self):
        super().__init__()
        self.layer, self.offset = nn.Linear(6, 6), torch.ones(6)
        self.register_buffer("calls", torch.zeros(6))

    def forward(self, x):
        self.calls.add_(1)
        y = torch.relu_(self.layer(x)) + self.offset + torch.arange(6)
        return {"y": y[:, None, 2:], "x": x, "shift": self.calls}


NETWORKS = {
    "resnet18": lambda: (models.resnet18(num_classes=4), torch.randn(2, 3, 32, 32)),
    "shufflenet": lambda: (models.shufflenet_v2_x0_5(num_classes=4), torch.randn(2, 3, 32, 32)),
    "swin": lambda: (
        models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [2, 2], num_classes=4), torch.randn(2, 3, 32, 32)
    ),
    "encoder": lambda: (nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), torch.randn(2, 5, 16)),
    "attention": lambda: (nn.Sequential(SelfAttention(lowered), SelfAttention(scaled)), torch.randn(2, 5, 12)),
    "lstm": lambda: (nn.LSTM(6, 8, batch_first=True), torch.randn(2, 5, 6)),
    "counted": lambda: (Counted(), torch.randn(2, 6)),
}  # fmt: skip


def described(captured, module, x):
    """Return what labels learn in a graph, and what is known of the graph's ends."""
    named = tensors(module)
    flow = Flow(
        shapes={name: tuple(tensor.shape) for name, tensor in named.items()},
        integral=frozenset(name for name, tensor in named.items() if not tensor.is_floating_point()),
    )
    follow(captured, flow, len(x))
    found = assemble(flow, Settings(protected={}, multiple=1))
    groups = [
        (g.name, g.block, g.least, [(s.tensor, s.axis, s.indices.tolist()) for s in g.slices],
         [(r.weight, r.positions.tolist()) for r in (*g.readers, *g.norms, *g.writers)])
        for g in found.groups
    ]  # fmt: skip
    products = [(p.coefficient, p.weight, p.module) for p in flow.products]
    return groups, list(found.pinned), products, captured.used, len(captured.user_inputs), captured.output_shapes


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_recording_is_what_torch_export_captures(name, training):
    torch.manual_seed(0)
    module, x = NETWORKS[name]()
    module.eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = torch.get_rng_state()
    assert record(module, (x,), training=training).outputs
    found, wanted = (how(module, (x,), training=training) for how in (capture, exported))
    assert described(found, module, x) == described(wanted, module, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


class Asking(nn.Module):
    """Ask for the value of a constant, which torch.export knows and a recording does not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.second(self.first(x) * torch.tensor(2.0).item())


class Deciding(Asking):
    def forward(self, x):
        y = self.first(x)
        return self.second(y if y.sum() > 0 else -y)


def test_what_cannot_be_recorded_is_exported():
    module, x = Asking(), torch.randn(2, 6)
    with pytest.raises((UnrecordedError, RuntimeError)):
        record(module, (x,), training=False)
    assert trace(module, (x,)).widths == {"first": 8}


def test_what_depends_on_values_is_refused_with_a_remedy():
    with pytest.raises(TraceError, match=r"torch\.where or masks"):
        trace(Deciding(), (torch.randn(2, 6),))
