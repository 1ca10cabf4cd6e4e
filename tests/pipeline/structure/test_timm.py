"""Networks whose code nobody here wrote, of the families that ask most of the tracer."""

import pytest
import torch

timm = pytest.importorskip("timm")

# The side of the pictures, and what each asks for.
NETWORKS = {
    "levit_128s": 224,  # keys narrower than values, batch norm behind queries
    "fasternet_t0": 64,  # parts of sizes that are attributes
    "rexnet_100": 64,  # bounds of slices that are attributes
    "resmlp_12_224": 224,  # channels that pass layers which mix tokens
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_is_lawful_and_goes_far(name, lawful):
    torch.manual_seed(0)
    module = timm.create_model(name, pretrained=False, num_classes=10).eval()
    structure = lawful(module, torch.randn(1, 3, NETWORKS[name], NETWORKS[name]))
    half = {g.name: g.allowed_width(g.num_channels // 2) for g in structure.groups}
    assert structure.macs(half) <= 0.3 * structure.macs()
    assert all(p.reason for p in structure.pinned)
