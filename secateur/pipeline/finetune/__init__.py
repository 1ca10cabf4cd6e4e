"""Fine-tuning of cut networks by distillation from the uncut one."""

from secateur.pipeline.finetune.finetune import Finetune
from secateur.pipeline.finetune.loss import DistillationWeights
from secateur.pipeline.finetune.progress import Progress

__all__ = ["DistillationWeights", "Finetune", "Progress"]
