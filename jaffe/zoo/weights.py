"""Published files of weights, by the net that they are of; the first is the one that people mean."""

from __future__ import annotations

from jaffe.zoo.cards import Weights

# URLs and SHA-1 sums: front matter of models/*/readme.md in BVLC/caffe.
_BVLC = "http://dl.caffe.berkeleyvision.org"
# Sums: testdata/dnn/download_models.py in opencv/opencv_extra.
_OPENCV = "https://dl.opencv.org/models"
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
}
