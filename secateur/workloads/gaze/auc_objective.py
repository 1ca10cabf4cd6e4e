"""The AUC of fixations as an objective: fixated cells against all cells, by the saddle function of `Coda`."""

from secateur.pipeline.coda import Classes
from secateur.workloads.gaze.metrics import Maps


def fixated_and_all(log_density: Maps, counts: Maps) -> Classes:
    """Score cells by their log-density less its mean over the picture, nats; every picture counts alike.

    Positives are the fixations, negatives all cells, as in `secateur.workloads.gaze.roc.auc`. The area is within
    pictures; without the means the objective would also compare cells of different pictures.
    """
    scores = log_density - log_density.mean(dim=(1, 2), keepdim=True)
    pictures, rows, columns = counts.shape
    positives = counts / (pictures * counts.sum(dim=(1, 2), keepdim=True))
    return Classes(
        scores=scores, positives=positives, negatives=counts.new_full(counts.shape, 1 / (pictures * rows * columns))
    )
