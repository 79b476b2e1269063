"""Recipes on ImageNet, with the settings that were published.

None was run to its end: each says whose settings it has. Where those leave a choice, these are the same for all:

- ``tfds:imagenet2012`` gives red, green, blue, so means stand in that order. For files and databases, which give blue,
  green, red, they must be turned round: weights trained on one are not for the other.
- Images become squares before the crop, as Caffe's scripts make them. Crops of random scale and aspect ratio, which
  later papers use, and lighting noise have no counterpart here; nor have mean images, for which a mean for each channel
  stands.
- Batches that were divided among N devices are ``iter_size`` N batches of one device, with the statistics of each.
- Tests have central crops without mirroring, and see each of the 50,000 validation images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaffe.netdef import NetSpec
from jaffe.zoo.alexnet import alexnet, caffenet
from jaffe.zoo.densenet import densenet121
from jaffe.zoo.inception import googlenet, inception_v3
from jaffe.zoo.mobilenet import mobilenet_v2
from jaffe.zoo.nin import nin
from jaffe.zoo.recipes.base import Recipe, entered
from jaffe.zoo.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from jaffe.zoo.senet import se_resnet50
from jaffe.zoo.shufflenet import shufflenet
from jaffe.zoo.squeezenet import squeezenet1_0, squeezenet1_1
from jaffe.zoo.vgg import vgg16, vgg19

IMAGES, VALIDATION = 1_281_167, 50_000
_BVLC = {"mean_value": [123, 117, 104]}
_VGG = {"mean_value": [123.68, 116.779, 103.939]}
_SCALED = {"mean_value": [123.68, 116.78, 103.94], "scale": 0.017}
_TORCHVISION = "torchvision's reference training"


def _epochs(number: int, batch: int) -> int:
    """Iterations; the last of each epoch may have fewer images."""
    return number * -(-IMAGES // batch)


# Source: solver.prototxt and train_val.prototxt of Caffe's models/bvlc_alexnet and models/bvlc_reference_caffenet.
_CAFFE: dict[str, Any] = dict(
    base_lr=0.01, lr_policy="step", gamma=0.1, stepsize=100_000, max_iter=450_000, weight_decay=0.0005,
    test_interval=1000, display=20, snapshot=10_000,
)


@entered
def _alexnet() -> Recipe:
    return _recipe(alexnet, "the solver of Caffe's bvlc_alexnet, of which iteration 360,000 was published: "
                   "57.1 % top-1", 256, 50, _BVLC, crop=227, **_CAFFE)


@entered
def _caffenet() -> Recipe:
    return _recipe(caffenet, "the solver of Caffe's bvlc_reference_caffenet, of which iteration 310,000 was "
                   "published: 57.4 % top-1", 256, 50, _BVLC, crop=227, **_CAFFE)


@entered
def _googlenet() -> Recipe:
    # Source: Caffe's models/bvlc_googlenet/quick_solver.prototxt and train_val.prototxt.
    return _recipe(
        googlenet, "the quick solver of Caffe's bvlc_googlenet: 60 epochs; 68.7 % top-1 (published)",
        32, 50, _BVLC, base_lr=0.01, lr_policy="poly", power=0.5, max_iter=2_400_000, weight_decay=0.0002,
        test_interval=4000, test_initialization=False, display=40, average_loss=40, snapshot=40_000,
    )


@entered
def _nin() -> Recipe:
    # Source: the authors' gist d802a5849de39225bcc6; its tests are 1,000 batches of 89 images, more than there are.
    return _recipe(nin, "the authors' solver of nin_imagenet; 59.36 % top-1 (published)", 64, 89, _BVLC,
                   **{**_CAFFE, "stepsize": 200_000})


@entered
def _squeezenet1_0() -> Recipe:
    return _squeezenet(squeezenet1_0, "the authors' solver of SqueezeNet_v1.0; 57.5 % top-1 (the paper)")


@entered
def _squeezenet1_1() -> Recipe:
    return _squeezenet(squeezenet1_1, "the authors' solver of SqueezeNet_v1.1; 57.5 % top-1 (the paper, of "
                       "version 1.0)")


def _squeezenet(build: Callable[..., NetSpec], about: str) -> Recipe:
    # Source: solver.prototxt and train_val.prototxt of forresti's SqueezeNet, the same for both versions.
    return _recipe(
        build, about, 32, 25, _BVLC, crop=227, mirror=False, iter_size=16, base_lr=0.04, lr_policy="poly", power=1,
        max_iter=170_000, weight_decay=0.0002, test_interval=1000, test_initialization=False, display=40,
        average_loss=40, snapshot=1000, random_seed=42,
    )


@entered
def _vgg16() -> Recipe:
    return _vgg(vgg16)


@entered
def _vgg19() -> Recipe:
    return _vgg(vgg19)


def _vgg(build: Callable[..., NetSpec]) -> Recipe:
    return _reference(build, f"{_TORCHVISION}, 90 epochs; the paper lowers the rate where accuracy no longer rises, "
                      "and does not say when that was", 25, _VGG, base_lr=0.01)


@entered
def _resnet18() -> Recipe:
    return _resnet(resnet18, 50, "69.76")


@entered
def _resnet34() -> Recipe:
    return _resnet(resnet34, 50, "73.31")


@entered
def _resnet50() -> Recipe:
    return _resnet(resnet50, 25)


@entered
def _resnet101() -> Recipe:
    return _resnet(resnet101, 25)


@entered
def _resnet152() -> Recipe:
    return _resnet(resnet152, 25)


def _resnet(build: Callable[..., NetSpec], test_batch: int, reached: str = "") -> Recipe:
    about = (f"{_TORCHVISION}, 90 epochs; " + (f"{reached} % top-1 (published)" if reached else
             "the paper lowers the rate where the error no longer falls, and does not say when that was"))
    return _reference(build, about, test_batch, _VGG, base_lr=0.1)


def _reference(
    build: Callable[..., NetSpec], about: str, test_batch: int, transform: dict[str, Any], **solver: Any
) -> Recipe:
    """Source: references/classification/README.md of pytorch/vision: eight devices with 32 images each."""
    settings: dict[str, Any] = dict(lr_policy="step", gamma=0.1, stepsize=_epochs(30, 256), max_iter=_epochs(90, 256),
                                    weight_decay=0.0001, iter_size=8)
    return _recipe(build, about, 32, test_batch, transform, **{**settings, **solver})


@entered
def _mobilenet_v2() -> Recipe:
    # Source: as _reference.
    return _reference(mobilenet_v2, f"{_TORCHVISION}, 300 epochs", 50, _SCALED, base_lr=0.045, gamma=0.98,
                      stepsize=_epochs(1, 256), max_iter=_epochs(300, 256), weight_decay=0.00004)


@entered
def _densenet121() -> Recipe:
    # Source: arXiv 1608.06993, section 4.2.
    return _recipe(
        densenet121, "the paper's settings, 90 epochs; 74.91 % top-1 (published, of the authors' weights)",
        32, 25, _SCALED, iter_size=8, type="Nesterov", base_lr=0.1, lr_policy="multistep", gamma=0.1,
        stepvalue=[_epochs(30, 256), _epochs(60, 256)], max_iter=_epochs(90, 256), weight_decay=0.0001,
    )


@entered
def _se_resnet50() -> Recipe:
    # Source: arXiv 1709.01507, and the authors' README, by which 256 images are those of eight devices.
    return _recipe(
        se_resnet50, "the paper's settings, 100 epochs, with the weight decay of ResNet, as it states none",
        32, 25, _BVLC, iter_size=32, base_lr=0.6, lr_policy="step", gamma=0.1, stepsize=_epochs(30, 1024),
        max_iter=_epochs(100, 1024), weight_decay=0.0001,
    )


@entered
def _shufflenet() -> Recipe:
    # Source: arXiv 1707.01083, section 4: four devices; momentum is that of the settings it follows, ResNeXt's.
    return _recipe(
        shufflenet, "the paper's settings; 67.8 % top-1 (published, of the authors' ShuffleNet-Series)",
        256, 50, _SCALED, iter_size=4, base_lr=0.5, lr_policy="poly", power=1, max_iter=300_000, weight_decay=0.00004,
    )


@entered
def _inception_v3() -> Recipe:
    # Source: arXiv 1512.00567, sections 7 and 8. delta is added to the root here, and under it in TensorFlow.
    recipe = _recipe(
        inception_v3, "the paper's settings, 100 epochs, as one of its 50 replicas has them, and without the "
        "average of the weights", 32, 25, {"mean_value": [128], "scale": 1 / 128}, crop=299, size=320, type="RMSProp",
        momentum=0, rms_decay=0.9, delta=1.0, base_lr=0.045, lr_policy="step", gamma=0.94, stepsize=_epochs(2, 32),
        max_iter=_epochs(100, 32), clip_gradients=2.0,
    )
    for loss in ("aux_loss", "loss"):
        recipe.net[loss].call.proto.loss_param.label_smoothing = 0.1
    return recipe


def _recipe(
    build: Callable[..., NetSpec], about: str, batch: int, test_batch: int, transform: dict[str, Any], *,
    crop: int = 224, size: int = 256, mirror: bool = True, **solver: Any,
) -> Recipe:
    """``size``: of the squares that images become; ``mirror``: in phase TRAIN."""
    net = build(batch=batch, test_batch=test_batch,
                transform={"resize": size, "crop_size": crop, "mirror": mirror, **transform})
    net.test_data.proto.transform_param.mirror = False
    common = dict(momentum=0.9, test_iter=[-(-VALIDATION // test_batch)], test_interval=_epochs(1, 256), display=100,
                  average_loss=100, snapshot=10_000, random_seed=1)
    return Recipe(build.__name__, net, {**common, **solver}, "tfds:imagenet2012", about)
