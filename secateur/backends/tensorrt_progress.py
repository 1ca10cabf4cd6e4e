"""The progress of a TensorRT build, told to whoever listens, and its interruption."""

from typing import Any

from secateur.backends.protocol import Progress


def build_monitor(trt: Any, progress: Progress) -> Any:
    """Make a progress monitor; its class has the runtime's as its base, so it is made where the runtime is known."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.num_steps: dict[str, int] = {}
            self.interruption: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.num_steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.num_steps.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            # An exception must not cross the compiler's frames: it is kept, and the build is asked to stop.
            try:
                progress(phase_name, step + 1, self.num_steps.get(phase_name, step + 1))
            except BaseException as error:
                self.interruption = error
            return self.interruption is None

    return Monitor()
