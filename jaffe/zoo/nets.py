"""Small nets, for digits and vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaffe.netdef import L, NetSpec
from jaffe.netdef.blocks import learned, max_pool
from jaffe.netdef.builder import Top
from jaffe.zoo.cards import Figure, published
from jaffe.zoo.parts import classify, images


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
    """LeNet as Caffe's MNIST example has it: 28x28 grey images, 431,080 parameters for 10 classes.

    Published with that example: 99.1 % on MNIST. Source: LeCun et al. 1998; Caffe's ``examples/mnist``.

    Args:
        transform: fields of ``transform_param``; pixels are expected in [0, 1) after it.
    """
    n = NetSpec("LeNet")
    images(n, (1, 28, 28), batch, test_batch, transform)
    settled = {"param": learned(decay=(1, 1)), "weight_filler": {"type": "xavier"}}
    n.conv1 = L.Convolution(n.data, num_output=20, kernel_size=5, **settled)
    n.pool1 = max_pool(n.conv1)
    n.conv2 = L.Convolution(n.pool1, num_output=50, kernel_size=5, **settled)
    n.pool2 = max_pool(n.conv2)
    n.ip1 = L.InnerProduct(n.pool2, num_output=500, **settled)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=classes, **settled)
    classify(n, n.ip2)
    return n


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
        shape: (C, H, W) of one item; (features, 1, 1) for vectors.
        hidden: widths of the hidden layers.
    """
    n = NetSpec("MLP")
    x, _ = images(n, shape, batch, test_batch, transform)
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
        shape: (C, H, W) of one item; (features, 1, 1) for vectors.
    """
    n = NetSpec("LogisticRegression")
    images(n, shape, batch, test_batch, transform)
    n.scores = L.InnerProduct(n.data, num_output=classes, param=learned(), weight_filler={"type": "xavier"})
    classify(n, n.scores)
    return n


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

    The squared error is put out beside it with weight 0. Source: Hinton and Salakhutdinov 2006; Caffe's
    ``examples/mnist/mnist_autoencoder.prototxt``.

    Args:
        widths: of the encoder's layers, the last being the code; the decoder mirrors them.
        transform: fields of ``transform_param``; pixels are expected in [0, 1] after it.
    """
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
