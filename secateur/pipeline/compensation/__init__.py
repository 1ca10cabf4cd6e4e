from secateur.pipeline.compensation.gates import Gates
from secateur.pipeline.compensation.least_squares import LeastSquares
from secateur.pipeline.compensation.nothing import Nothing
from secateur.pipeline.compensation.protocol import Compensation, Removal

COMPENSATIONS: dict[str, Compensation] = {
    "none": Nothing(),
    "gates": Gates(),
    "least-squares": LeastSquares(),
}

__all__ = ["COMPENSATIONS", "Compensation", "Removal"]
