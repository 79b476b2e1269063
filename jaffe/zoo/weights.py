"""Published files of weights, by the net that they are of; the first is the one that people mean."""

from __future__ import annotations

from jaffe.zoo.cards import Weights

# URLs and SHA-1 sums: front matter of models/*/readme.md in BVLC/caffe.
_BVLC = "http://dl.caffe.berkeleyvision.org"
# SHA-1 sums of ResNet-50, DenseNet-121 and the FCNs: testdata/dnn/download_models.py in opencv/opencv_extra (FCN-32s:
# its early versions).
_OPENCV = "https://dl.opencv.org/models"
# SHA-1 sums: tools/caffe_converter/convert_caffe_modelzoo.py in apache/mxnet.
_VGG = "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe"
# Names of git blobs: the trees of the repositories.
_MOBILENET = "https://raw.githubusercontent.com/shicai/MobileNet-Caffe/a0b0c46152e658559956158d7c2bf42bb029c09e"
_SQUEEZENET = ("https://raw.githubusercontent.com/forresti/SqueezeNet/51147dc0681638c28aad593b9e923f3500117125/"
               "SqueezeNet_v{0}/squeezenet_v{0}.caffemodel")

WEIGHTS: dict[str, tuple[Weights, ...]] = {
    "alexnet": (
        Weights("bvlc", f"{_BVLC}/bvlc_alexnet.caffemodel", "sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
                licence="unrestricted"),
    ),
    "caffenet": (
        Weights("bvlc", f"{_BVLC}/bvlc_reference_caffenet.caffemodel",
                "sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46", licence="unrestricted"),
    ),
    "googlenet": (
        Weights("bvlc", f"{_BVLC}/bvlc_googlenet.caffemodel", "sha1:405fc5acd08a3bb12de8ee5e23a96bec22f08204",
                licence="unrestricted"),
    ),
    "nin": (  # readme.md of gist.github.com/mavenlin/d802a5849de39225bcc6
        Weights("authors", "https://www.dropbox.com/s/0cidxafrb2wuwxw/nin_imagenet.caffemodel?dl=1",
                "sha1:8e89c8fcd46e02780e16c867a5308e7bb7af0803", licence="non-commercial"),
    ),
    "vgg16": (
        Weights("authors", f"{_VGG}/VGG_ILSVRC_16_layers.caffemodel", "sha1:9363e1f6d65f7dba68c4f27a1e62105cdf6c4e24"),
    ),
    "vgg19": (
        Weights("authors", f"{_VGG}/VGG_ILSVRC_19_layers.caffemodel", "sha1:239785e7862442717d831f682bb824055e51e9ba"),
    ),
    "resnet50": (
        Weights("authors", f"{_OPENCV}/ResNet-50-model.caffemodel", "sha1:b7c79ccc21ad0479cddc0dd78b1d20c4d722908d"),
    ),
    "densenet121": (
        Weights("shicai", "https://drive.google.com/uc?export=download&id=0B7ubpZO7HnlCcHlfNmJkU2VPelE",
                "sha1:02b520138e8a73c94473b05879978018fefe947b", file="DenseNet_121.caffemodel"),
    ),
    "squeezenet1_0": (
        Weights("authors", _SQUEEZENET.format("1.0"), "git:a381d848b43d7048c3b362238ece2386c21d6ff0",
                licence="BSD"),
    ),
    "squeezenet1_1": (
        Weights("authors", _SQUEEZENET.format("1.1"), "git:9d2fc33abf653a6e8b2ee6cc63ede0e72ec67f44",
                licence="BSD"),
    ),
    "mobilenet": (
        Weights("shicai", f"{_MOBILENET}/mobilenet.caffemodel", "git:132e56b5f14874090622a8287f208e5eac3d8440",
                licence="BSD"),
    ),
    "mobilenet_v2": (
        Weights("shicai", f"{_MOBILENET}/mobilenet_v2.caffemodel", "git:901c2b5515da944d152e1aa0c3e71108eb227576",
                licence="BSD"),
    ),
    "fcn8s": (
        Weights("authors", f"{_BVLC}/fcn8s-heavy-pascal.caffemodel", "sha1:c449ea74dd7d83751d1357d6a8c323fcf4038962"),
    ),
    "fcn32s": (
        Weights("authors", f"{_BVLC}/fcn32s-heavy-pascal.caffemodel", "sha1:05eb922d7829c39448f57e5ab9d8cd75d6c0be6d"),
    ),
    "rcnn_features": (
        Weights("bvlc", f"{_BVLC}/bvlc_reference_rcnn_ilsvrc13.caffemodel",
                "sha1:bdd8abb885819cba5e2fe1eb36235f2319477e64", licence="unrestricted"),
    ),
}
