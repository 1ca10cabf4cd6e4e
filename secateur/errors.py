"""The error tree: every failure a user can cause or cure has one of these types and a message of four parts."""


class SecateurError(Exception):
    """A failure with its place, what was found, what was wanted and what to do.

    The command line prints the message without a traceback and exits with code 2.
    """

    def __init__(self, where: str, found: str, wanted: str, remedy: str) -> None:
        self.where = where
        self.found = found
        self.wanted = wanted
        self.remedy = remedy
        super().__init__(f"{where}: found {found}; wanted {wanted}. {remedy}")

    def __reduce__(self) -> tuple[type["SecateurError"], tuple[str, str, str, str]]:
        return type(self), (self.where, self.found, self.wanted, self.remedy)


class RecipeError(SecateurError):
    """A recipe that cannot be read: a missing file, an unknown key, a value out of range."""


class LoadError(SecateurError):
    """A network or data set that cannot be loaded: no such module, wrong type, NaN weights, wrong shapes."""


class DataError(SecateurError):
    """Data of the wrong kind: an empty set, an unreadable file, a sample of the wrong shape or with NaNs."""


class TraceError(SecateurError):
    """A network whose graph cannot be captured, or that cannot be cut as asked."""


class BudgetError(SecateurError):
    """A budget that cannot be reached; the message says what can."""


class EqualityError(SecateurError):
    """Two artefacts that must agree (masked and cut, network and ONNX, ONNX and engine) do not."""


class TrainingError(SecateurError):
    """Fine-tuning went wrong: a loss that is not finite, a checkpoint that does not fit."""


class ExportError(SecateurError):
    """A network that cannot be written as ONNX."""


class BackendError(SecateurError):
    """A runtime that is absent, refuses a network, or fell back to another device."""


class MeasurementError(SecateurError):
    """A measurement that cannot be made or trusted."""


class StorageError(SecateurError):
    """The run folder cannot be read or written: no space left, no permission, a damaged file."""


def first_line(error: BaseException) -> str:
    """Shorten a runtime's message to its first line that is not empty."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:300]
