"""Backbones that MMPretrain does not have."""

from .mobilenet_v1 import MobileNetV1
from .mobilenet_v2_cifar import MobileNetV2CIFAR
from .resnet_cifar import ResNetCIFAR
from .shufflenet_cifar import ShuffleNetV1CIFAR, ShuffleNetV2CIFAR
from .vgg_cifar import VGGCIFAR
from .wide_resnet import WideResNetCIFAR

__all__ = [
    'MobileNetV1',
    'MobileNetV2CIFAR',
    'ResNetCIFAR',
    'ShuffleNetV1CIFAR',
    'ShuffleNetV2CIFAR',
    'VGGCIFAR',
    'WideResNetCIFAR',
]
