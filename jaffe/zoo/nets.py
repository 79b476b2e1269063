"""Small nets, for digits and vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.netdef.errors import JaffeError
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import classify, images, inputs


@published(
    title="LeNet", task="classification",
    paper="LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition; as in Caffe's "
          "examples/mnist",
    input="28x28, grey, scaled to [0, 1)", accuracy=[Figure("99.1 %", "MNIST; Caffe's examples/mnist")],
    params=Figure("431,080", "Caffe's lenet_iter_10000.caffemodel"),
)
def lenet(
    *, classes: int = 10, batch: int = 64, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """LeNet as Caffe's MNIST example has it: two convolutions and two inner products for 28x28 grey images.

    Args:
        transform: fields of ``transform_param``; pixels are expected in [0, 1) after it.
    """
    n = NetSpec("LeNet")
    images(n, (1, 28, 28), batch, test_batch, transform)
    n.ip2 = L.InnerProduct(lenet_features(n, n.data), num_output=classes, **lenet_weights("ip2"))
    classify(n, n.ip2)
    return n


def lenet_weights(layer: str, *, shared: bool = False) -> dict[str, Any]:
    """LeNet's filler and multipliers; shared, weights have names: ``conv1_w`` and ``conv1_b``."""
    param = learned(decay=(1, 1))
    names = [{"name": f"{layer}_{end}"} for end in "wb"] if shared else [{}, {}]
    return {"param": [{**name, **one} for name, one in zip(names, param, strict=True)],
            "weight_filler": {"type": "xavier"}}


def lenet_features(n: NetSpec, bottom: Top, suffix: str = "", *, shared: bool = False) -> Top:
    """LeNet up to relu1: (N, C, H, W) -> (N, 500). ``suffix`` is of each layer's name, not of shared weights'."""

    def add(name: str, top: Top) -> Top:
        n[name + suffix] = top
        return top

    x = add("conv1", L.Convolution(bottom, num_output=20, kernel_size=5, **lenet_weights("conv1", shared=shared)))
    x = add("pool1", max_pool(x))
    x = add("conv2", L.Convolution(x, num_output=50, kernel_size=5, **lenet_weights("conv2", shared=shared)))
    x = add("pool2", max_pool(x))
    x = add("ip1", L.InnerProduct(x, num_output=500, **lenet_weights("ip1", shared=shared)))
    return add("relu1", L.ReLU(x, in_place=True))


@published(
    title="Multi-layer perceptron", task="classification",
    paper="Rumelhart, Hinton, Williams 1986, Learning representations by back-propagating errors",
    input="any; by default 28x28, grey, scaled to [0, 1)",
)
def mlp(
    *,
    shape: Sequence[int] = (1, 28, 28),
    hidden: Sequence[int] = (256, 128),
    classes: int = 10,
    dropout: float = 0.5,
    batch: int = 64,
    test_batch: int = 100,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Multi-layer perceptron: hidden layers with ReLU, Dropout before the last layer.

    Args:
        shape: of one item: (C, H, W), or (features,) of vectors.
        hidden: widths of the hidden layers.
    """
    n = NetSpec("MLP")
    _items(n, shape, batch, test_batch, transform)
    x = n.data
    for i, width in enumerate(hidden, 1):
        n[f"ip{i}"] = L.InnerProduct(x, num_output=width, param=learned(), weight_filler={"type": "msra"})
        n[f"relu{i}"] = x = L.ReLU(n[f"ip{i}"], in_place=True)
    if dropout:
        n.drop = x = L.Dropout(x, dropout_ratio=dropout, in_place=True)
    n.scores = L.InnerProduct(x, num_output=classes, param=learned(), weight_filler={"type": "xavier"})
    classify(n, n.scores)
    return n


@published(
    title="Logistic regression", task="classification", paper="Cox 1958, The regression analysis of binary sequences",
    input="vectors of floats or images of any size",
)
def logreg(
    *,
    shape: Sequence[int] = (1, 8, 8),
    classes: int = 10,
    batch: int = 100,
    test_batch: int = 100,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Multinomial logistic regression on float vectors or images: one InnerProduct and a softmax loss.

    Args:
        shape: of one item: (C, H, W), or (features,) of vectors.
    """
    n = NetSpec("LogisticRegression")
    _items(n, shape, batch, test_batch, transform)
    n.scores = L.InnerProduct(n.data, num_output=classes, param=learned(), weight_filler={"type": "xavier"})
    classify(n, n.scores)
    return n


def _items(
    n: NetSpec, shape: Sequence[int], batch: int, test_batch: int, transform: Mapping[str, Any] | None
) -> None:
    """Data, images or vectors, and label."""
    if len(shape) == 1:
        inputs(n, batch, test_batch, {"data": shape, "label": ()}, transform)
    else:
        images(n, shape, batch, test_batch, transform)


@published(
    title="Deep autoencoder", task="autoencoder",
    paper="Hinton, Salakhutdinov 2006, Reducing the dimensionality of data with neural networks; as in Caffe's "
          "examples/mnist/mnist_autoencoder.prototxt",
    input="28x28, grey, scaled to [0, 1]",
)
def autoencoder(
    *,
    widths: Sequence[int] = (1000, 500, 250, 30),
    batch: int = 100,
    test_batch: int = 100,
    transform: Mapping[str, Any] | None = None,
) -> NetSpec:
    """Deep autoencoder of 28x28 images: sigmoid layers down to a code and back, cross entropy against the input.

    The squared error is put out beside it with weight 0.

    Args:
        widths: of the encoder's layers, the last being the code; the decoder mirrors them.
        transform: fields of ``transform_param``; pixels are expected in [0, 1] after it.
    """
    if not widths:
        raise JaffeError("expected widths of the encoder's layers, the code's at least; found none")
    n = NetSpec("Autoencoder")
    images(n, (1, 28, 28), batch, test_batch, transform)
    n.unused = L.Silence(n.label, ntop=0)
    n.flat = L.Flatten(n.data)

    def layer(name: str, bottom: Top, width: int) -> Top:
        n[name] = L.InnerProduct(
            bottom, num_output=width, param=learned(lr=(1, 1)),
            weight_filler={"type": "gaussian", "std": 1, "sparse": 15},
        )
        return n[name]

    x = n.flat
    for i, width in enumerate(widths[:-1], 1):
        layer(f"encode{i}", x, width)
        n[f"encode{i}_neuron"] = x = L.Sigmoid(n[f"encode{i}"])
    x = layer("code", x, widths[-1])
    for i, width in zip(range(len(widths) - 1, 0, -1), reversed(widths[:-1]), strict=True):
        layer(f"decode{i + 1}", x, width)
        n[f"decode{i + 1}_neuron"] = x = L.Sigmoid(n[f"decode{i + 1}"])
    layer("decode1", x, 28 * 28)
    n.loss = L.SigmoidCrossEntropyLoss(n.decode1, n.flat, loss_weight=1)
    n.output = L.Sigmoid(n.decode1)
    n.l2_error = L.EuclideanLoss(n.output, n.flat, loss_weight=0)
    return n


@published(
    title="Net-3", task="classification",
    paper="LeCun 1989, Generalization and network design strategies", input="16x16, grey, scaled to [0, 1]",
)
def net3(
    *, classes: int = 10, batch: int = 64, test_batch: int = 100, transform: Mapping[str, Any] | None = None
) -> NetSpec:
    """Two locally connected layers, whose every place has weights of its own, before the outputs; 1,226 parameters by
    default.

    The third of five nets for digits that led from fully connected to convolutional layers. Every second place of the
    layer below is the middle of a window, 3x3 and then 5x5, which is filled up with zeros at the edges. Source: LeCun
    1989, Generalization and network design strategies; with a softmax loss in place of the squared error.

    Args:
        transform: fields of ``transform_param``; pixels are expected in [0, 1] after it.
    """
    n = NetSpec("Net3")
    images(n, (1, 16, 16), batch, test_batch, transform)
    settled = {"num_output": 1, "stride": 2, "param": learned(lr=(1, 1)), "weight_filler": {"type": "xavier"}}
    n.local1 = L.LocallyConnected(n.data, kernel_size=3, pad=1, **settled)
    n.tanh1 = L.TanH(n.local1, in_place=True)
    n.local2 = L.LocallyConnected(n.tanh1, kernel_size=5, pad=2, **settled)
    n.tanh2 = L.TanH(n.local2, in_place=True)
    n.scores = L.InnerProduct(n.tanh2, num_output=classes, param=learned(lr=(1, 1)), weight_filler={"type": "xavier"})
    classify(n, n.scores)
    return n
