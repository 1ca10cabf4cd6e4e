"""A small convolutional network, its groups and its cut, and pictures that it can learn."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from secateur.artifacts import Data, Group, Metric, Model, Reader, Task


class SmallNet(nn.Module):
    """Two convolutions, one with batch norm, dropout, and a linear layer that reads flattened maps."""

    def __init__(self, first: int, second: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, first, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(second * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        x = functional.avg_pool2d(torch.relu(self.conv2(x)), 2)
        return self.linear(self.dropout(x.flatten(1)))


def groups_of(net: SmallNet) -> tuple[Group, Group]:
    first, second = net.conv1.out_channels, net.conv2.out_channels
    one = Reader(weight="conv2.weight", positions=np.arange(first)[:, None])
    four = Reader(weight="linear.weight", positions=np.arange(second * 4).reshape(second, 4))
    return (
        Group(name="conv1", num_channels=first, block="", slices=(), readers=(one,)),
        Group(name="conv2", num_channels=second, block="", slices=(), readers=(four,)),
    )


def cut_to(net: SmallNet, first: Tensor, second: Tensor) -> SmallNet:
    """Keep these channels, in this order."""
    small = SmallNet(len(first), len(second), net.dropout.p)
    wide = net.state_dict()
    flat = (second[:, None] * 4 + torch.arange(4)).flatten()
    small.load_state_dict(
        {
            **{name: value for name, value in wide.items() if value.ndim == 0 or name == "linear.bias"},
            **{name: value[first] for name, value in wide.items() if name.startswith(("conv1", "bn1")) and value.ndim},
            "conv2.weight": wide["conv2.weight"][second][:, first],
            "linear.weight": wide["linear.weight"][:, flat],
        }
    )
    return small


@dataclass
class Stripes(Dataset):
    """Noisy 8 x 8 pictures of horizontal, vertical or no stripes; the noise is drawn anew at every look."""

    num: int
    noise: float = 0.3
    dtype: torch.dtype = torch.float32
    labels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.labels = torch.arange(self.num) % 3

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        wave = (torch.arange(8) % 2).float() * 2 - 1
        label = int(self.labels[index])
        picture = (wave[:, None].expand(8, 8), wave.expand(8, 8), torch.zeros(8, 8))[label]
        # The three generators that data sets draw from.
        shift = float(np.random.standard_normal()) * 0.1  # noqa: NPY002
        return (picture + shift + self.noise * torch.randn(8, 8))[None].to(self.dtype), self.labels[index]


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are slower with more, and sums are added up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data() -> Data:
    return Data(train=Stripes(96), test=Stripes(30))


@pytest.fixture
def task() -> Task:
    return Task(
        name="stripes",
        loss=lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none"),
        metrics={"accuracy": Metric(per_sample=lambda outputs, targets: (outputs.argmax(1) == targets).float())},
        primary="accuracy",
        distill=lambda outputs, reference, temperature: (
            functional.kl_div(
                (outputs / temperature).log_softmax(1),
                (reference / temperature).log_softmax(1),
                reduction="none",
                log_target=True,
            ).sum(1)
            * temperature**2
        ),
    )


@pytest.fixture
def teacher() -> Model:
    """A teacher that was never trained, with batch-norm statistics and dropout of its own."""
    torch.manual_seed(1)
    net = SmallNet(8, 6, 0.2)
    net.train()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(16, 1, 8, 8))
    return Model(module=net.eval(), example_inputs=(torch.zeros(2, 1, 8, 8),))


@pytest.fixture
def student(teacher: Model) -> Model:
    """The teacher without three of eight and two of six channels."""
    return cut_model(teacher, torch.tensor([0, 2, 3, 5, 7]), torch.tensor([1, 2, 4, 5]))


def cut_model(teacher: Model, first: Tensor, second: Tensor) -> Model:
    return Model(
        module=cut_to(teacher.module, first, second).eval(),
        example_inputs=teacher.example_inputs,
        kept={"conv1": first, "conv2": second},
    )


@pytest.fixture
def groups() -> Callable[[Model], tuple[Group, Group]]:
    return lambda model: groups_of(model.module)


@pytest.fixture
def cut() -> Callable[[Model, Tensor, Tensor], Model]:
    return cut_model
