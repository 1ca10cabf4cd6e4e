"""Classification: its task, CIFAR-10 and picture folders, and the networks of the pruning literature for CIFAR-10."""

from secateur.workloads.classification.cifar10 import cifar10
from secateur.workloads.classification.densenet import CifarDenseNet, densenet40
from secateur.workloads.classification.image_folder import image_folder
from secateur.workloads.classification.resnet import CifarResNet, resnet20, resnet32, resnet44, resnet56
from secateur.workloads.classification.task import task
from secateur.workloads.classification.vgg import CifarVGG, vgg16

__all__ = [
    "CifarDenseNet",
    "CifarResNet",
    "CifarVGG",
    "cifar10",
    "densenet40",
    "image_folder",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "task",
    "vgg16",
]
