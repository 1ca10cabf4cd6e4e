"""How much of a network is superfluous, as records."""

from secateur.artifacts.record import Record


class Covering(Record):
    """How a group's filters cover each other, as directions within a threshold of the distance.

    ``num_components`` are the connected components of the graph of near filters, ``num_cover`` the filters that a
    greedy cover needs so that every other one is near one of them.
    """

    num_components: int
    num_cover: int
    redundancy: float


class DeadChannels(Record):
    """The channels of a group that do nothing by themselves, by index.

    ``zero`` are 0 and ``constant`` some other constant wherever they are read; ``unread`` have outgoing weights of 0.
    """

    zero: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()
    unread: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """Every channel that is dead in some way, ascending."""
        return tuple(sorted({*self.zero, *self.constant, *self.unread}))


class DeadRemoval(Record):
    """What is measured when dead channels go and their means are carried on by biases.

    ``residual`` is the largest difference of the outputs on one batch, relative to the largest output;
    ``residual_zero`` the same where nothing is carried on.
    """

    num_channels: int
    macs: int
    parameters: int
    residual: float
    residual_zero: float


class TauProbe(Record):
    """One threshold that was tried, and the loss that was measured at its floors, in nats where the loss is."""

    tau: float
    loss: float


class TauCalibration(Record):
    """How tau was found: the largest whose floors, when cut to, keep the measured loss within the increase allowed.

    ``probes`` are in the order in which they were made; tau itself is no loss.
    """

    loss_increase: float
    loss_before: float
    loss: float
    num_samples: int
    probes: tuple[TauProbe, ...]


class GroupRedundancy(Record):
    """How much of a group is superfluous. ``spectrum`` is half the matrix's eigenvalues, descending.

    They are nats where the matrix is that of gate gradients. ``covering`` and ``dead`` are absent where they were not
    looked for.
    """

    name: str
    block: str
    num_channels: int
    num_effective: int
    spectrum: tuple[float, ...]
    covering: Covering | None = None
    dead: DeadChannels | None = None

    @property
    def redundancy(self) -> float:
        """The superfluous share of the channels, in [0, 1)."""
        return 1 - self.num_effective / self.num_channels


class Redundancy(Record):
    """The redundancy of a network: what could go at most if every group kept only its effective filters.

    ``matrix`` and ``estimator`` say whose spectrum was counted how, ``threshold`` is the estimator's parameter; for
    the tail it is ``tau``, in nats, which others do not have. Latencies are those of all layers, each timed by itself,
    on the runtime ``backend``; absent where none were measured.
    """

    tau: float | None
    labels: str
    num_samples: int
    groups: tuple[GroupRedundancy, ...]
    macs: int
    macs_effective: int
    parameters: int
    parameters_effective: int
    matrix: str = "gate"
    estimator: str = "tail"
    threshold: float | None = None
    calibration: TauCalibration | None = None
    removal: DeadRemoval | None = None
    latency_s: float | None = None
    latency_effective_s: float | None = None
    backend: str = ""

    @property
    def maximum_compression(self) -> dict[str, float]:
        """Largest removable share of filters, MACs, parameters and, where measured, latency, each in [0, 1)."""
        total = sum(g.num_channels for g in self.groups)
        left = sum(g.num_effective for g in self.groups)
        found = {
            "filters": 1 - left / total if total else 0.0,
            "macs": 1 - self.macs_effective / self.macs,
            "parameters": 1 - self.parameters_effective / self.parameters,
        }
        if self.latency_s and self.latency_effective_s is not None:
            found["latency"] = 1 - self.latency_effective_s / self.latency_s
        return found
