"""The networks of the pruning literature through the laws of a cut."""

import pytest
import torch

from secateur.workloads.classification import CifarDenseNet, CifarResNet, vgg16

NETWORKS = {"vgg16": vgg16, "densenet40": lambda: CifarDenseNet(40), "resnet56": lambda: CifarResNet(56)}
LEFT = {"vgg16": 0.26, "densenet40": 0.27, "resnet56": 0.36}  # what shortcuts pad with zeros is pinned


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cut_is_lawful_and_goes_far(name, lawful):
    torch.manual_seed(0)
    structure = lawful(NETWORKS[name]().eval(), torch.randn(1, 3, 32, 32))
    half = {g.name: g.allowed_width(g.num_channels // 2) for g in structure.groups}
    assert structure.macs(half) <= LEFT[name] * structure.macs()
