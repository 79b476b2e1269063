"""Nets that people know, each a function that returns a spec, and recipes to train some of them. Imports no JAX."""

from jaffe.zoo.frames import caption as caption
from jaffe.zoo.frames import lrcn as lrcn
from jaffe.zoo.generate import beam_search as beam_search
from jaffe.zoo.generate import char_step as char_step
from jaffe.zoo.generate import sample as sample
from jaffe.zoo.imagenet import caffenet as caffenet
from jaffe.zoo.imagenet import googlenet as googlenet
from jaffe.zoo.imagenet import mobilenet as mobilenet
from jaffe.zoo.imagenet import resnet18 as resnet18
from jaffe.zoo.imagenet import squeezenet as squeezenet
from jaffe.zoo.imagenet import vgg16 as vgg16
from jaffe.zoo.nets import autoencoder as autoencoder
from jaffe.zoo.nets import cifar10_full as cifar10_full
from jaffe.zoo.nets import cifar10_quick as cifar10_quick
from jaffe.zoo.nets import lenet as lenet
from jaffe.zoo.nets import logreg as logreg
from jaffe.zoo.nets import mlp as mlp
from jaffe.zoo.recipes import RECIPES as RECIPES
from jaffe.zoo.recipes import Recipe as Recipe
from jaffe.zoo.recipes import recipe as recipe
from jaffe.zoo.recurrent import char_lstm as char_lstm
from jaffe.zoo.recurrent import lstm_sequence_classifier as lstm_sequence_classifier
from jaffe.zoo.recurrent import seq2seq_addition as seq2seq_addition
