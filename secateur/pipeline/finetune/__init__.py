"""Fine-tuning of cut networks by distillation from the uncut one."""

from secateur.pipeline.finetune.averaging import Averaging
from secateur.pipeline.finetune.finetune import Finetune
from secateur.pipeline.finetune.loss import DistillationWeights
from secateur.pipeline.finetune.memory import Memory
from secateur.pipeline.finetune.progress import Progress
from secateur.pipeline.finetune.soft_targets import SoftTargets

__all__ = ["Averaging", "DistillationWeights", "Finetune", "Memory", "Progress", "SoftTargets"]
