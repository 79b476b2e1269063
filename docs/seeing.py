"""Makes the pictures of docs/seeing.md: `make seeing`. Needs ../shared, where published weights and a photograph are.

Takes some minutes on two CPU cores.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import jaffe
from jaffe import inspect, zoo
from jaffe.compile import CompiledNet
from jaffe.netdef import load
from jaffe.train import open_dataset

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared"
FILES = SHARED / "models" / "files" / "squeezenet_v1.0_deepcompression"
CLASSES = {"flamingo": 130, "zebra": 340, "daisy": 985, "balloon": 417}
KEY = jax.random.key(0)


def save(name: str, made: Figure, dots: int = 80) -> None:
    """Write a picture, with 255 colours to keep it small."""
    picture = io.BytesIO()
    made.savefig(picture, dpi=dots)
    colours = Image.open(picture).convert("RGB").quantize(255)
    colours.save(HERE / "seeing" / f"{name}.png", optimize=True)


def lenet() -> tuple[CompiledNet, Any, np.ndarray, np.ndarray]:
    """LeNet after its recipe's seconds of training, and digits that it was not trained on, with their labels."""
    solver = jaffe.Solver(zoo.recipe("lenet"))
    solver.run()
    print("LeNet:", solver.metrics.tests()[-1])
    records = open_dataset("tfds:digits", "test").records
    images, labels = (np.stack([record[field] for record in map(records.__getitem__, range(len(records)))])
                      for field in ("image", "label"))
    net = solver.tests[0].net
    return net, solver.variables, np.asarray(net.preprocess(images, layout="NCHW")), labels


def squeezenet() -> tuple[CompiledNet, Any, jax.Array, np.ndarray]:
    """SqueezeNet 1.0 with its published weights, a photograph as it reads it, and the photograph itself."""
    spec = load(FILES / "SqueezeNet_deploy.prototxt").net
    spec.layer[0].transform_param.mean_value.extend([104, 117, 123])  # as in the authors' train_val.prototxt
    net = jaffe.compile_net(spec, phase="TEST")
    variables = jaffe.load_weights(net, net.init(KEY), FILES / "decoded_squeezenet_v1.0.caffemodel")
    x = net.preprocess(cv2.imread(str(SHARED / "data" / "imgs" / "cat.jpg")), order="BGR", size=(227, 227))
    return net, variables, x, shown(net, x)[0]


def shown(net: CompiledNet, x: Any) -> np.ndarray:
    """Inputs as images (N, H, W, 3) of 0 to 255."""
    return inspect.deprocess(net, x).clip(0, 255)


def digits() -> None:
    """What LeNet gives."""
    net, variables, x, labels = lenet()
    dreamt = np.concatenate([inspect.class_image(net, variables, i, KEY, jitter=2, bounds=(0, 1)) for i in range(10)])
    save("lenet", inspect.figure({
        "filters of conv1": inspect.tile(inspect.filters(net, variables, "conv1")),
        "pool1 of a digit": inspect.tile(inspect.feature_maps(net, variables, x[:1], "pool1")),
        "images of the ten classes": inspect.tile(dreamt[:, 0], 5),
    }))
    found = inspect.features(net, variables, x, "ip1")
    for method in ("pca", "tsne"):
        save(method, inspect.scatter(inspect.embed(found, method), labels, inches=4.0))
    print(inspect.activity(net, variables, x))


def photograph() -> None:
    """What SqueezeNet gives."""
    net, variables, x, photo = squeezenet()
    (scores,) = net.apply(variables, {"data": x})[0].values()
    class_ = int(np.argmax(scores))
    print("SqueezeNet takes the photograph for class", class_)
    save("filters", inspect.figure({
        "filters of conv1": inspect.tile(inspect.filters(net, variables, "conv1")),
        "pool1, 16 of 96": inspect.tile(inspect.feature_maps(net, variables, x, "pool1")[0, :16], scale="each"),
        "fire4/concat, 16 of 256": inspect.tile(
            inspect.feature_maps(net, variables, x, "fire4/concat")[0, :16], scale="each"),
    }))
    save("saliency", inspect.figure({
        "photograph": photo,
        "gradient": inspect.saliency(net, variables, x, class_)[0],
        "mean of 32 with noise": inspect.saliency(net, variables, x, class_, samples=32, key=KEY)[0],
        "guided": np.sqrt(inspect.saliency(net, variables, x, class_, method="guided")[0]),
    }))
    covered = inspect.occlusion(net, variables, x, class_, 48, 12)
    save("where", inspect.figure({
        "Grad-CAM": inspect.overlay(photo, inspect.grad_cam(net, variables, x, class_)[0]),
        "Grad-CAM of fire8": inspect.overlay(photo, inspect.grad_cam(net, variables, x, class_, "fire8/concat")[0]),
        "occlusion, 48 pixels": inspect.overlay(photo, np.maximum(covered, 0)),
    }))
    save("receptive", receptive(net, photo))
    save("classes", inspect.figure({
        name: shown(net, inspect.class_image(net, variables, class_, KEY))[0] for name, class_ in CLASSES.items()
    }, columns=2), 64)
    save("inverted", inspect.figure({
        blob: shown(net, inspect.invert(net, variables, x, blob, KEY, steps=200))[0]
        for blob in ("pool1", "fire4/concat", "fire6/concat", "fire9/concat")
    }, columns=2), 64)
    save("dreams", inspect.figure({
        blob: shown(net, inspect.deep_dream(net, variables, x, blob, KEY))[0]
        for blob in ("fire5/concat", "fire8/concat")
    }))


def receptive(net: CompiledNet, photo: np.ndarray) -> Figure:
    """Squares of what the unit in the middle of some blobs can see."""
    made = inspect.figure(photo, inches=4.0)
    fields = inspect.receptive_fields(net)
    for i, blob in enumerate(("conv1", "pool1", "fire4/concat", "fire6/concat", "fire9/concat")):
        field = fields[net.value_of(blob)]
        assert field.size is not None
        assert field.stride is not None
        assert field.offset is not None
        y, x = (offset + stride * (units // 2) - size / 2 for offset, stride, units, size in
                zip(field.offset, field.stride, field.shape[2:], field.size, strict=True))
        made.axes[0].add_patch(Rectangle((x, y), field.size[1], field.size[0], fill=False, color=f"C{i}", linewidth=2,
                                         label=f"{blob}: {field.size[0]} pixels"))
    made.axes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7)
    made.set_size_inches(6.4, 4)
    return made


if __name__ == "__main__":
    if not FILES.is_dir():
        raise SystemExit(f"{FILES} is not here: nothing to look at")
    (HERE / "seeing").mkdir(exist_ok=True)
    digits()
    photograph()
