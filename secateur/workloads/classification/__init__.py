"""Classification: its task, CIFAR-10 and picture folders, and residual networks for CIFAR-10."""

from secateur.workloads.classification.cifar10 import cifar10
from secateur.workloads.classification.image_folder import image_folder
from secateur.workloads.classification.resnet import CifarResNet, resnet20, resnet32, resnet44, resnet56
from secateur.workloads.classification.task import task

__all__ = ["CifarResNet", "cifar10", "image_folder", "resnet20", "resnet32", "resnet44", "resnet56", "task"]
