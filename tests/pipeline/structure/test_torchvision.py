"""Published architectures through the laws of a cut."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.models.convnext import CNBlockConfig

from secateur.pipeline.structure import trace

SIZES = {
    "vgg11_bn": 32, "resnet18": 48, "resnet50": 48, "densenet121": 48, "mobilenet_v2": 48, "mobilenet_v3_small": 48,
    "squeezenet1_1": 48, "shufflenet_v2_x0_5": 48, "efficientnet_b0": 48,
}  # fmt: skip

# Every producer of channels but the classifier can be cut; what cannot is listed by its reason.
UNPINNED = {"vgg11_bn", "resnet18", "resnet50", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1",
            "efficientnet_b0"}  # fmt: skip


def build(name):
    torch.manual_seed(0)
    return getattr(models, name)(weights=None, num_classes=10).eval(), torch.randn(2, 3, SIZES[name], SIZES[name])


@pytest.mark.parametrize("name", SIZES)
def test_a_cut_is_lawful_and_macs_are_what_pytorch_counts(name, lawful):
    module, x = build(name)
    structure = lawful(module, x)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(x)
    assert structure.macs() == counter.get_total_flops() // 2 // len(x)
    if name in UNPINNED:
        assert [p.reason for p in structure.pinned] == ["output of the network"]


def test_macs_of_attention_are_what_pytorch_counts(lawful):
    torch.manual_seed(0)
    module = models.VisionTransformer(
        32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=10
    ).eval()
    nn.init.normal_(module.heads.head.weight)
    x = torch.randn(2, 3, 32, 32)
    structure = lawful(module, x)
    # The counter knows attention only where it is made of matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(x)
    assert structure.macs() == counter.get_total_flops() // 2 // len(x)
    assert structure.widths == {
        "conv_proj": 8,  # one in every head, with the stream, which is as wide as all heads
        "encoder.layers.encoder_layer_0.mlp.0": 48,
        "encoder.layers.encoder_layer_1.mlp.0": 48,
    }
    assert [p.reason for p in structure.pinned] == ["output of the network"]


def test_layer_scale_and_layer_norm(lawful):
    torch.manual_seed(0)
    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)]
    module = models.ConvNeXt(stages, layer_scale=1.0, num_classes=10)
    structure = lawful(module, torch.randn(2, 3, 32, 32))
    assert structure.widths == {
        "features.0.0": 8, "features.1.0.block.3": 32, "features.2.1": 16, "features.3.0.block.3": 64,
        "features.3.1.block.3": 64,
    }  # fmt: skip
    assert {norm.weight for norm in structure.group("features.2.1").norms} == {
        "features.3.0.block.2.weight", "features.3.1.block.2.weight", "classifier.0.weight",
    }  # fmt: skip
    assert [p.reason for p in structure.pinned] == ["output of the network"]


def test_block_names_follow_the_residual_streams():
    module, x = build("resnet18")
    blocks = {g.name: g.block for g in trace(module, (x,)).groups}
    assert blocks["layer2.0.conv1"] == "layer2.0"
    assert blocks["layer2.0.conv2"] == "layer2"
    assert blocks["conv1"] == "conv1"


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large"])
def test_backbones_of_detectors_are_cut_but_for_their_outputs(name, lawful):
    torch.manual_seed(0)
    module = models.get_model(name, weights=None, weights_backbone=None).backbone.eval()
    structure = lawful(module, torch.randn(1, 3, 96, 96))
    half = {g.name: g.allowed_width(g.num_channels // 2) for g in structure.groups}
    assert structure.macs(half) <= 0.35 * structure.macs()
    assert {p.reason for p in structure.pinned} == {"output of the network"}
