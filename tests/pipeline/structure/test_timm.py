"""Networks whose code nobody here wrote, of the families that ask most of the tracer."""

import pytest
import torch

timm = pytest.importorskip("timm")

# What each asks for, and what stays whole besides the classifier: the share of multiply-adds left at half the channels.
NETWORKS = {
    "levit_128s": 0.28,  # keys narrower than values, batch norm behind queries
    "fasternet_t0": 0.26,  # parts of sizes that are attributes
    "rexnet_100": 0.27,  # bounds of slices that are attributes
    "poolformer_s12": 0.26,  # scales brought into a shape that was noted
    "resmlp_12_224": 0.29,  # channels that pass layers which mix tokens
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_is_lawful_and_goes_far(name, lawful):
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=10).eval()
    structure = lawful(module, torch.randn(1, 3, 224, 224))
    half = {g.name: g.allowed_width(g.num_channels // 2) for g in structure.groups}
    assert structure.macs(half) <= NETWORKS[name] * structure.macs()
    assert all(p.reason for p in structure.pinned)
