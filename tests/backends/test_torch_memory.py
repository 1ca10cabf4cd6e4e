"""Closed engines of torch leave nothing in torch's tables; open ones, and modules of others, keep what is theirs."""

import gc
import inspect
import linecache
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.graph_module import _loader

from secateur.artifacts import Exported
from secateur.backends import BACKENDS
from secateur.backends.protocol import BuildOptions
from secateur.backends.torch_engine import TorchEngine
from secateur.backends.torch_memory import given_back
from secateur.errors import BackendError

Load = Callable[[], TorchEngine]


@pytest.fixture(scope="module")
def load(narrow: Exported, tmp_path_factory: pytest.TempPathFactory) -> Load:
    backend, folder = BACKENDS["torch"], tmp_path_factory.mktemp("torch")
    result = backend.build(narrow.path, folder, BuildOptions())

    def loaded() -> TorchEngine:
        engine = backend.load(result, folder)
        assert isinstance(engine, TorchEngine)
        return engine

    return loaded


def module() -> fx.GraphModule:
    return fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))


def source(of: fx.GraphModule) -> str:
    """Name a module's generated source as torch's table and Python's do."""
    return str(type(of).forward.__code__.co_filename)


def kept() -> dict[str, int]:
    """Count what torch's tables hold after everything that nobody needs is gone."""
    gc.collect()
    return {
        "sources": len(_loader.eval_cache),
        "lines": sum(name.startswith("<eval_with_key>") for name in linecache.cache),
        "results": len(FakeTensorMode.cache),
        "sizes": sum(type(one) is ShapeEnv for one in gc.get_objects()),
    }


def test_closed_engines_leave_nothing_in_the_tables_of_torch(load: Load) -> None:
    load().close()
    before, times = kept(), 20
    for _ in range(times):
        load().close()
    grown = {name: count - before[name] for name, count in kept().items()}
    assert max(grown.values()) < times, f"{grown} after {times} engines; the last one's sources may still be there"


def test_an_open_engine_keeps_its_source_until_it_is_closed(load: Load) -> None:
    def of(engine: TorchEngine) -> str:
        assert isinstance(engine._call, fx.GraphModule)
        assert "conv2d" in inspect.getsource(type(engine._call).forward)
        return source(engine._call)

    first, second = load(), load()
    gone, stays = of(first), of(second)
    first.close()
    gc.collect()
    assert gone not in _loader.eval_cache
    assert gone not in linecache.cache
    assert of(second) == stays
    with pytest.raises(BackendError, match="closed"):
        first.run((np.zeros((1, 3, 24, 24), np.float32),))
    second.close()


def test_sources_of_others_stay_as_long_as_their_modules(load: Load) -> None:
    with given_back():
        other = module()  # as a thread would make one while an engine is loaded
    load().close()
    gc.collect()
    assert "input_1" in inspect.getsource(type(other).forward)
    name = source(other)
    del other
    gc.collect()
    assert name not in _loader.eval_cache


def test_a_source_whose_code_is_still_being_made_is_waited_for(load: Load) -> None:
    with given_back():
        late, dead = (_loader.cache("def forward(self, x):\n    return x\n", {}) for _ in range(2))
    assert {late, dead} <= _loader.eval_cache.keys()
    other = module()
    scope: dict[str, Callable[..., object]] = {}
    exec(compile(_loader.eval_cache[late], late, "exec"), scope)
    type(other).forward = scope["forward"]
    for _ in range(2):
        load().close()
    assert dead not in _loader.eval_cache
    assert inspect.getsource(type(other).forward).startswith("def forward")


def test_loads_leave_the_table_of_results_empty_and_in_use(load: Load) -> None:
    FakeTensorMode.cache_clear()
    load().close()
    assert not FakeTensorMode.cache
    for _ in range(2):
        with given_back():
            assert not torch._dynamo.config.fake_tensor_cache_enabled
        assert torch._dynamo.config.fake_tensor_cache_enabled


def test_threads_load_at_once(load: Load) -> None:
    inputs = (np.random.default_rng(0).standard_normal((2, 3, 24, 24)).astype(np.float32),)

    def bits(_: int) -> bytes:
        with load() as engine:
            return engine.run(inputs)[0].tobytes()

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(bits, range(12)))) == 1


def test_a_file_that_is_no_program_leaves_loading_as_it_was(load: Load, tmp_path: Path) -> None:
    backend = BACKENDS["torch"]
    with pytest.raises(BackendError, match=r"torch\.export does not read"):
        backend._open(b"nothing", str(tmp_path / "broken.pt2"), 1)  # type: ignore[attr-defined]
    with load() as engine:
        assert engine.run((np.zeros((1, 3, 24, 24), np.float32),))[0].shape == (1, 5)
