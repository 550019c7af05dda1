"""Image networks against parameter counts by hand, shapes, and what each promises of its layers."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trilab.data.vision.spec import ImageSpec
from trilab.errors import ConfigError
from trilab.models.vision.airbench import Airbench
from trilab.models.vision.cifar_cnn import CifarCNN
from trilab.models.vision.mnist_cnn import MnistCNN
from trilab.models.vision.resnet18 import ResNet18

CIFAR = ImageSpec(channels=3, height=32, width=32, classes=10)
MNIST = ImageSpec(channels=1, height=28, width=28, classes=10)
TINY = ImageSpec(channels=3, height=10, width=12, classes=4)
NETWORKS = {
    "cifar_cnn": CifarCNN,
    "resnet18_small": ResNet18,
    "resnet18_imagenet": partial(ResNet18, stem="imagenet"),
    "airbench": Airbench,
}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def resnet18_parameters(stem: int) -> int:
    """Of 10 classes, by hand, from the paper's table 1: convolutions without bias, BatchNorm with scale and bias."""
    total, before = stem + 2 * 64, 64
    for width in (64, 128, 256, 512):
        for _ in range(2):
            total += 9 * before * width + 2 * width + 9 * width * width + 2 * width
            if before != width:
                total += before * width + 2 * width  # the 1x1 convolution beside the first block
            before = width
    return total + 512 * 10 + 10


def test_parameter_counts_by_hand() -> None:
    assert parameters(CifarCNN(CIFAR)) == (
        (27 * 32 + 32) + (288 * 64 + 64) + (576 * 64 + 64) + (1024 * 64 + 64) + (64 * 10 + 10)
    )
    assert parameters(CifarCNN(CIFAR)) == 122_570
    assert parameters(ResNet18(CIFAR)) == resnet18_parameters(stem=27 * 64) == 11_173_962
    assert parameters(ResNet18(CIFAR, stem="imagenet")) == resnet18_parameters(stem=3 * 49 * 64)
    whitening = 24 * 12 + 24
    groups = sum(9 * (a * b + b * b) + 4 * b for a, b in ((24, 64), (64, 256), (256, 256)))
    assert parameters(Airbench(CIFAR)) == whitening + groups + 2560 == 1_972_792


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("spec", [CIFAR, MNIST], ids=["colour", "grey"])
def test_images_become_logits(name: str, spec: ImageSpec) -> None:
    network = NETWORKS[name](spec)
    images = torch.randn(3, spec.channels, spec.height, spec.width)
    assert network(images).shape == (3, 10)
    last = network.to(memory_format=torch.channels_last)
    assert last(images.contiguous(memory_format=torch.channels_last)).shape == (3, 10)


def test_sizes_inside_are_the_published_ones() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert CifarCNN(CIFAR).features(images).shape == (2, 64, 4, 4)
    airbench = Airbench(CIFAR)
    assert airbench.first(images).shape == (2, 24, 31, 31)
    assert airbench.groups(airbench.first(images)).shape == (2, 256, 3, 3)
    seen: list[torch.Size] = []
    resnet = ResNet18(CIFAR)
    resnet.network.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    resnet.network.layer4.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    resnet(images)
    assert seen == [(2, 64, 32, 32), (2, 512, 4, 4)]


@pytest.mark.parametrize("kind", [MnistCNN, CifarCNN])
def test_pooling_before_relu_changes_nothing(kind: type[MnistCNN] | type[CifarCNN]) -> None:
    """The published order, ReLU and then pooling, layer by layer: the same numbers and the same gradients.

    Gradients go to the same pixel: where a window's largest value is positive it is the same one before and after ReLU,
    and where it is not, no gradient passes.
    """
    torch.manual_seed(0)
    network, images = kind(CIFAR), torch.randn(2, 3, 32, 32)
    network(images).square().sum().backward()
    ours = [parameter.grad.clone() for parameter in network.features.parameters() if parameter.grad is not None]
    network.zero_grad()
    layers = list(network.features)
    hidden = images
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            hidden = F.relu(layer(hidden))
        elif isinstance(layer, nn.MaxPool2d):
            assert isinstance(layers[i + 1], nn.ReLU)
            hidden = layer(hidden)
    network.head(hidden).square().sum().backward()
    theirs = [parameter.grad for parameter in network.features.parameters()]
    assert torch.equal(network.features(images), hidden)
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert other is not None
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_images_too_small_are_clear_errors() -> None:
    with pytest.raises(ConfigError, match=r"channels=\[8, 8, 8\]: 3 stages leave nothing of an image of 10x12"):
        CifarCNN(TINY, channels=[8, 8, 8])
    with pytest.raises(ConfigError, match=r"leaves nothing\. Use images of 9x9 and more"):
        Airbench(ImageSpec(3, 8, 12, 4))
    assert Airbench(TINY)(torch.randn(2, 3, 10, 12)).shape == (2, 4)


# Airbench, part by part


def test_whitened_patches_are_uncorrelated_and_of_variance_one() -> None:
    """Against a naive walk over every patch of correlated images."""
    generator = torch.Generator().manual_seed(0)
    images = F.avg_pool2d(torch.randn(6, 3, 14, 14, generator=generator), 3, 1)  # neighbours are alike
    images = images + 0.5 * images.flip(1)  # and so are channels
    network = Airbench(ImageSpec(3, 12, 12, 4), whiten_eps=1e-12)
    network.initialize(images)
    patches = torch.stack(
        [images[n, :, y : y + 2, x : x + 2].flatten() for n in range(6) for y in range(11) for x in range(11)]
    ).double()
    weights = network.first.weight.detach().double().flatten(1)
    outputs = patches @ weights.T  # (patches, 24)
    covariance = outputs.T @ outputs / len(patches)
    one = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(covariance[:12, :12], one, rtol=0, atol=1e-3)
    assert torch.equal(weights[:12], -weights[12:])
    spread = (patches.T @ patches / len(patches) - one).abs().max()
    assert spread > 0.5  # the patches themselves are far from it
    convolved = F.conv2d(images, network.first.weight)[0, :, 3, 5]
    torch.testing.assert_close(convolved.double(), patches[3 * 11 + 5] @ weights.T, rtol=1e-4, atol=1e-4)


def test_eps_damps_directions_of_little_variance() -> None:
    images = torch.randn(4, 1, 16, 16) * 0.01
    network = Airbench(ImageSpec(1, 16, 16, 4), whiten_eps=5e-4)
    network.initialize(images)
    norms = network.first.weight.detach().flatten(1).norm(dim=1)
    values = torch.linalg.eigvalsh(torch.cov(F.unfold(images, 2).transpose(0, 1).flatten(1), correction=0))
    torch.testing.assert_close(norms[:4], (values.flip(0) + 5e-4).rsqrt(), rtol=5e-3, atol=0)


def test_dirac_convolutions_pass_their_input_through() -> None:
    network = Airbench(CIFAR)
    convolutions = [layer for layer in network.groups if isinstance(layer, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (24, 64), (64, 64), (64, 256), (256, 256), (256, 256), (256, 256)
    ]  # fmt: skip
    for layer in convolutions:
        hidden = torch.randn(2, layer.in_channels, 5, 5)
        torch.testing.assert_close(layer(hidden)[:, : layer.in_channels], hidden)
    usual = next(layer for layer in Airbench(CIFAR, dirac=False).groups if isinstance(layer, nn.Conv2d))
    hidden = torch.randn(2, 24, 5, 5)
    assert not torch.allclose(usual(hidden)[:, :24], hidden, atol=0.1)


def test_what_is_trained_and_when() -> None:
    network = Airbench(CIFAR, whiten_bias_epochs=2)
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen[0] == "first.weight"
    assert len(frozen) == 1 + 6  # and each BatchNorm's scale
    trained = []
    for epoch in range(4):
        network.start_epoch(epoch)
        assert network.first.bias is not None
        trained.append(network.first.bias.requires_grad)
    assert trained == [True, True, False, False]
    plain = Airbench(CIFAR, whiten=False, norm_scale=True)
    plain.start_epoch(9)
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert plain.initialization_images == 0


def test_batchnorm_and_logits_are_as_configured() -> None:
    network = Airbench(CIFAR, norm_momentum=0.6, logit_scale=0.25, activation="relu")
    norm = next(layer for layer in network.groups if isinstance(layer, nn.BatchNorm2d))
    assert norm.eps == 1e-12
    hidden = torch.randn(8, 64, 5, 5) * 3 + 1
    norm(hidden)
    torch.testing.assert_close(norm.running_mean, 0.4 * hidden.mean((0, 2, 3)))  # 0.6 of the zero before
    assert not any(isinstance(layer, nn.GELU) for layer in network.modules())
    network.eval()
    images = torch.randn(2, 3, 32, 32)
    features = network.groups(network.activation(network.first(images))).amax((2, 3))
    torch.testing.assert_close(network(images), 0.25 * features @ network.logits.weight.T)


def test_the_small_stem_keeps_the_size_and_its_scale() -> None:
    small = ResNet18(CIFAR).network.conv1
    assert (small.kernel_size, small.stride) == ((3, 3), (1, 1))
    assert small.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # He, by the outputs
    large = ResNet18(CIFAR, stem="imagenet").network
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(large.maxpool, nn.MaxPool2d)
