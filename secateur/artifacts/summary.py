"""Everything that a run found."""

from typing import Any

from secateur.artifacts.practice import Practice
from secateur.artifacts.quantization import HalveResult, QuantizeResult
from secateur.artifacts.record import Record
from secateur.artifacts.redundancy import Redundancy
from secateur.artifacts.results import (
    Comparison,
    EngineResult,
    Evaluation,
    ExportResult,
    FinetuneResult,
    PruneResult,
    Verdict,
    realised_fraction,
)


class Findings(Record):
    """What the steps of a run found, for its gates and its report; mappings are keyed by the networks.

    ``quantized_comparison`` is that of the original network and the compressed one in eight bits or half precision,
    ``practice`` what became of the promise layer by layer; None where that was not asked for or not possible.
    """

    redundancy: Redundancy
    prune: PruneResult
    finetune: FinetuneResult
    evaluations: dict[str, Evaluation]
    exports: dict[str, ExportResult]
    engines: dict[str, tuple[EngineResult, ...]]
    comparison: Comparison
    quantization: QuantizeResult | HalveResult | None = None
    quantized_comparison: Comparison | None = None
    practice: Practice | None = None


class Summary(Findings):
    """Everything the report says, from one run."""

    name: str
    task: str
    primary: str
    data: str
    facts: dict[str, float]
    verdict: Verdict
    durations_s: dict[str, float]
    recipe: dict[str, Any]
    version: str

    @property
    def mac_ratio(self) -> float:
        """MACs before over MACs after."""
        return self.prune.macs_before / self.prune.macs_after

    @property
    def realised(self) -> float | None:
        """The share of the promised speed-up that was measured, see `realised_fraction`."""
        return realised_fraction(self.mac_ratio, self.comparison.speedup.value)
