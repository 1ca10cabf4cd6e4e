"""Published networks with random weights, by name, and what the structure's benchmarks ask of each."""

import json
import subprocess
import sys
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from secateur.pipeline.structure import Structure
from secateur.pipeline.structure.capture import flat_outputs
from secateur.workloads import classification

# The larger sisters of networks that are here as well.
LARGE = {
    "convnext_small", "convnext_base", "convnext_large", "densenet161", "densenet169", "densenet201",
    "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
    "efficientnet_v2_m", "efficientnet_v2_l", "regnet_x_16gf", "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf",
    "regnet_x_8gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf", "regnet_y_8gf",
    "resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d", "swin_s", "swin_b", "swin_v2_s", "swin_v2_b",
    "swin3d_s", "swin3d_b", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vit_b_16",
    "wide_resnet101_2", "deeplabv3_resnet101", "fcn_resnet101", "raft_large", "regnet_y_128gf", "vit_h_14", "vit_l_16",
    "vit_l_32",
}  # fmt: skip
VIDEO = (1, 3, 16, 112, 112)
SIZES = {
    "inception_v3": (1, 3, 299, 299), "googlenet": (1, 3, 224, 224), "mvit_v1_b": (1, 3, 16, 224, 224),
    "mvit_v2_s": (1, 3, 16, 224, 224), "s3d": (1, 3, 16, 224, 224), "raft_small": (1, 3, 128, 128),
    "raft_large": (1, 3, 128, 128),
}  # fmt: skip

# One small network of each of timm's families.
TIMM = """
beit_base_patch16_224 byoanet:lambda_resnet26t byoanet:halonet26t byoanet:eca_botnext26ts_256 byobnet:resnet26t
byobnet:regnetz_b16 byobnet:repvgg_a0 byobnet:gcresnext26ts byobnet:mobileone_s0 cait_xxs24_224 coat_lite_tiny
convit_tiny convmixer_768_32 convnext_atto convnextv2_atto crossvit_tiny_240 cspresnet50 darknet53 davit_tiny
deit3_small_patch16_224 deit_tiny_patch16_224 densenet121 dla34 dpn48b edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientnet_b0 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny ghostnet_100 ghostnetv2_100 gmlp_ti16_224 hardcorenas_a hgnet_tiny hgnetv2_b0
hiera_tiny_224 hrnet_w18_small inception_next_tiny inception_resnet_v2 inception_v4 lcnet_035 levit_128s
levit_conv_128s mambaout_femto coatnet_nano_rw_224 maxvit_nano_rw_256 poolformer_s12 caformer_s18 convformer_s18
mixer_s16_224 resmlp_12_224 mixnet_s mobilenetv3_small_050 mobilenetv4_conv_small mobilevit_xxs mobilevitv2_050
mvitv2_tiny nasnetalarge nest_tiny nextvit_small nfnet_l0 pit_ti_224 pnasnet5large pvt_v2_b0 rdnet_tiny regnetx_002
repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnet50d seresnet18 ecaresnet26t resnetv2_50 rexnet_100
selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s1 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tinynet_e tnt_s_legacy_patch16_224 tresnet_m
twins_pcpvt_small twins_svt_small vgg11 visformer_tiny vit_relpos_small_patch16_224 vit_small_r26_s32_224
vit_tiny_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_dw xception41 legacy_xception xcit_nano_12_p16_224
""".split()  # noqa: SIM905


def torchvision_names() -> list[str]:
    """List torchvision's networks for classification, video, segmentation and optical flow."""
    kinds = ("", "video", "segmentation", "optical_flow")
    modules = [getattr(torchvision.models, kind) if kind else torchvision.models for kind in kinds]
    found = [name for module in modules for name in torchvision.models.list_models(module=module)]
    return list(dict.fromkeys(found))


def timm_names() -> list[str]:
    """List one small network of each of timm's families, as ``timm:name``."""
    return [f"timm:{name.rpartition(':')[2]}" for name in TIMM]


def detection_names() -> list[str]:
    """List torchvision's networks for detection as ``detection:name``, of which the backbones are cut."""
    return [f"detection:{name}" for name in torchvision.models.list_models(module=torchvision.models.detection)]


def cifar_names() -> list[str]:
    """List the networks of the pruning literature for pictures of 32 x 32, as ``cifar:name``."""
    return ["cifar:resnet20", "cifar:resnet56", "cifar:vgg16", "cifar:densenet40"]


def build(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a network in evaluation mode and its example inputs."""
    torch.manual_seed(0)
    library, _, short = name.rpartition(":")
    if library == "timm":
        return _of_timm(short)
    if library == "cifar":
        return _drawn(getattr(classification, short)()), (torch.randn(1, 3, 32, 32),)
    if library == "detection":
        whole: Any = torchvision.models.get_model(short, weights=None, weights_backbone=None)
        return _drawn(whole.backbone.eval()), (torch.randn(1, 3, 320, 320),)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if any(part in name for part in ("deeplab", "fcn", "lraspp")):
        options["weights_backbone"] = None
    module = _drawn(torchvision.models.get_model(name, weights=None, **options).eval())
    video = name in torchvision.models.list_models(module=torchvision.models.video)
    x = torch.randn(SIZES.get(name, VIDEO if video else (1, 3, 224, 224)))
    return module, (x, x) if name.startswith("raft") else (x,)


def _of_timm(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    import timm

    module = _drawn(timm.create_model(name, pretrained=False).eval())
    return module, (torch.randn(1, *module.default_cfg["input_size"]),)


def _drawn(module: nn.Module) -> nn.Module:
    """Draw weights, factors and biases that start near zero anew: they would hide what they multiply."""
    with torch.no_grad():
        for parameter in module.parameters():
            if float(parameter.abs().max()) < 1e-3:
                parameter.normal_(0, 0.3 if parameter.ndim <= 1 else 0.02)
    return module


def relative_error(found: Any, wanted: Any) -> float:
    """Return the largest difference between the outputs of two networks, relative to the largest entry of each."""
    pairs = zip(flat_outputs(found), flat_outputs(wanted), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def pinned_channels(structure: Structure) -> dict[str, int]:
    """Count the channels that are pinned, by reason."""
    found: dict[str, int] = {}
    for pinned in structure.pinned:
        found[pinned.reason] = found.get(pinned.reason, 0) + pinned.num_channels
    return found


def in_a_process(script: str, arguments: list[str], limit_s: float) -> dict[str, Any]:
    """Run ``script --one arguments``, which prints a row as JSON, and return the row or what went wrong."""
    command = [sys.executable, script, "--one", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"status": f"exceeds {limit_s:g} s"}
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"status": "raises", "error": (said or [f"exit {done.returncode}"])[-1][:300]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def macs(module: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Count multiply-adds as PyTorch does; its counter wants no parameters that train where some are passed on."""
    module.requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    module.requires_grad_(True)
    return counter.get_total_flops() // 2
