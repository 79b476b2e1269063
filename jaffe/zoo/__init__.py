"""Nets that people know, each a function that returns a spec, and recipes to train them. Imports no JAX."""

from jaffe.zoo.nets import autoencoder as autoencoder
from jaffe.zoo.nets import cifar10_quick as cifar10_quick
from jaffe.zoo.nets import lenet as lenet
from jaffe.zoo.nets import logreg as logreg
from jaffe.zoo.nets import mlp as mlp
from jaffe.zoo.recipes import RECIPES as RECIPES
from jaffe.zoo.recipes import Recipe as Recipe
from jaffe.zoo.recipes import recipe as recipe
