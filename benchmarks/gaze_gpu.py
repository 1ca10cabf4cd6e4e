"""Latency of gaze networks on a GPU: half precision, one picture, replayed as one CUDA graph."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from gaze_family import MOBILE, family_of, rebuilt
from gaze_pool import half
from torch import nn


def latencies(results: Mapping[str, Any], size: tuple[int, int], num_rounds: int = 5) -> dict[str, float]:
    """Return the milliseconds of every network in the results of training whose shapes are known, medians of rounds."""
    graphs = {}
    for row, facts in results.items():
        if isinstance(facts, dict) and "shapes" in facts:
            name = family_of(row)
            graphs[row] = graph_of(rebuilt(name, facts["shapes"]), half(size) if name == MOBILE else size)
    found: dict[str, list[float]] = {row: [] for row in graphs}
    for _ in range(num_rounds):
        for row, (graph, _, _) in graphs.items():
            found[row].append(replayed_ms(graph))
    return {row: statistics.median(values) for row, values in found.items()}


@torch.no_grad()
def graph_of(network: nn.Module, size: tuple[int, int]) -> tuple[torch.cuda.CUDAGraph, nn.Module, torch.Tensor]:
    """Capture a network's call on one picture; the network and the picture must live as long as the graph."""
    device = torch.device("cuda")
    network = network.to(device, torch.float16, memory_format=torch.channels_last)
    picture = torch.rand(1, 3, *size, device=device, dtype=torch.float16).to(memory_format=torch.channels_last)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            network(picture)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(picture)
    return graph, network, picture


def replayed_ms(graph: torch.cuda.CUDAGraph, num_calls: int = 50) -> float:
    """Return the median milliseconds of a replay, the device waited for after each."""
    for _ in range(5):
        graph.replay()
    torch.cuda.synchronize()
    samples = []
    for _ in range(num_calls):
        started = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        samples.append(1e3 * (time.perf_counter() - started))
    return statistics.median(samples)
