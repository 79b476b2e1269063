"""Seeing what a net has learnt: small pure functions over compiled nets, and thin ones that make pictures of them."""

from jaffe.inspect.activity import Activity as Activity
from jaffe.inspect.activity import activity as activity
from jaffe.inspect.attribution import grad_cam as grad_cam
from jaffe.inspect.attribution import occlusion as occlusion
from jaffe.inspect.attribution import saliency as saliency
from jaffe.inspect.blobs import feature_maps as feature_maps
from jaffe.inspect.blobs import features as features
from jaffe.inspect.blobs import filters as filters
from jaffe.inspect.embedding import embed as embed
from jaffe.inspect.figures import figure as figure
from jaffe.inspect.figures import overlay as overlay
from jaffe.inspect.figures import scatter as scatter
from jaffe.inspect.pictures import deprocess as deprocess
from jaffe.inspect.pictures import tile as tile
from jaffe.inspect.receptive import ReceptiveField as ReceptiveField
from jaffe.inspect.receptive import receptive_fields as receptive_fields
from jaffe.inspect.synthesis import class_image as class_image
from jaffe.inspect.synthesis import deep_dream as deep_dream
from jaffe.inspect.synthesis import invert as invert
