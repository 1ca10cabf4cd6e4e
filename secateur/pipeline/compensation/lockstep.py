"""Run two networks of the same code side by side, one showing the other what each of its layers makes."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import Queue
from typing import Any

import torch
from torch import Tensor, nn

from secateur.calibration.calls import Calls
from secateur.calibration.observe import observing
from secateur.errors import TraceError


class _StoppedError(Exception):
    """Nobody looks on any more."""


class Leader:
    """A network that waits at each of its layers until what they made was used."""

    def __init__(self) -> None:
        self._shown: Queue[tuple[str, Tensor] | Exception | None] = Queue(maxsize=1)
        self._used = threading.Semaphore(0)
        self._is_stopped = False

    @contextmanager
    def outputs_of(self, name: str) -> Iterator[Tensor]:
        """Give what the next layer made, within the context; raise TraceError where it is not the one of this weight.

        The network goes on afterwards: it may write over these outputs.
        """
        shown = self._shown.get()
        if isinstance(shown, Exception):
            raise shown
        if shown is None or shown[0] != name:
            raise TraceError(
                f"compensation, {name}", f"{'the end' if shown is None else shown[0]} in the uncut network",
                "the same layers in the same order in the cut and the uncut network",
                "The network's code takes other ways at other widths: choose another compensation.",
            )  # fmt: skip
        yield shown[1]
        self._used.release()

    def run(self, module: nn.Module, names: Mapping[int, str], inputs: tuple[Tensor, ...]) -> None:
        """Run a network once and show what the layers of these weights make."""

        def layer(name: str, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
            outputs = func(*args, **kwargs)
            self._shown.put((name, outputs))
            self._used.acquire()
            if self._is_stopped:
                raise _StoppedError
            return outputs

        ended: Exception | None = None
        try:
            # Modes belong to a thread.
            with torch.no_grad(), Calls(names, layer):
                module(*inputs)
        except _StoppedError:
            return
        except Exception as error:  # raised again in the thread that looks on
            ended = error
        self._shown.put(ended)

    def stop(self) -> None:
        """Let the network go, whatever it waits for."""
        self._is_stopped = True
        self._used.release()


@contextmanager
def leading(module: nn.Module, names: Mapping[int, str], inputs: tuple[Tensor, ...]) -> Iterator[Leader]:
    """Run a network, in eval mode and in a thread of its own, that shows the outputs of the layers of these weights.

    ``names`` maps the identity of each weight to its name. The network is left as it was.
    """
    leader = Leader()
    with observing(module):
        thread = threading.Thread(target=leader.run, args=(module, names, inputs), daemon=True)
        thread.start()
        try:
            yield leader
        finally:
            leader.stop()
            thread.join()
