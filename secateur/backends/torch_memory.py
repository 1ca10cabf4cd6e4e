"""What torch keeps of every program that it loads, given back when the program goes."""

import contextlib
import linecache
import threading
import weakref
from collections.abc import Iterator
from types import CodeType, FunctionType

import torch._dynamo.config
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.graph_module import _loader

_ONE_AT_A_TIME = threading.Lock()
_WITHOUT_RESULTS = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
_undecided: set[str] = set()
"""Sources that had no code when they were last looked at."""


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """Load programs and make modules of them, so that torch's tables keep nothing of those that are dropped.

    Three tables would hold parts of every program until the process ends: the sources of the code that torch generates
    for graphs, the results of operators on tensors without values (not filled here), and what methods of tables of
    symbolic sizes returned. One thread at a time: torch refuses to read two programs at once.
    """
    with _ONE_AT_A_TIME, _WITHOUT_RESULTS:
        before = set(_loader.eval_cache)
        try:
            yield
        finally:
            _forget_sizes()
            _tie_sources(set(_loader.eval_cache) - before)


def _forget_sizes() -> None:
    """Empty the memos whose keys hold whole tables of symbolic sizes; they fill again where they are needed."""
    for method in vars(ShapeEnv).values():
        if hasattr(method, "cache_clear"):
            method.cache_clear()


def _tie_sources(new: set[str]) -> None:
    """Let every new source live as long as its code.

    One without code belongs to a module that is gone, or to one that another thread is making at this moment. The next
    load tells: by then there is code that reads it.
    """
    codes = {code.co_filename: code for code in _generated(GraphModule)}
    for name in new & codes.keys():
        weakref.finalize(codes[name], _forget_source, name).atexit = False
    for name in _undecided - codes.keys():
        _forget_source(name)
    _undecided.clear()
    _undecided.update(new - codes.keys())


def _generated(kind: type) -> Iterator[CodeType]:
    """Give the code of every living module below a class; torch makes each a class of its own."""
    one: type
    for one in kind.__subclasses__():
        if isinstance(forward := vars(one).get("forward"), FunctionType):
            yield forward.__code__
        yield from _generated(one)


def _forget_source(name: str) -> None:
    _loader.eval_cache.pop(name, None)
    linecache.cache.pop(name, None)
