"""What a net is: its schema, its files, its declaration in Python, and its resolved graph. Imports no JAX."""

from jaffe.netdef.builder import L as L
from jaffe.netdef.builder import NetSpec as NetSpec
from jaffe.netdef.builder import P as P
from jaffe.netdef.builder import to_proto as to_proto
from jaffe.netdef.deploy import deploy as deploy
from jaffe.netdef.draw import to_dot as to_dot
from jaffe.netdef.draw import to_mermaid as to_mermaid
from jaffe.netdef.errors import JaffeError as JaffeError
from jaffe.netdef.errors import SpecError as SpecError
from jaffe.netdef.graph import Graph as Graph
from jaffe.netdef.graph import Node as Node
from jaffe.netdef.jaffe_pb2 import LayerParameter as LayerParameter
from jaffe.netdef.jaffe_pb2 import NetParameter as NetParameter
from jaffe.netdef.jaffe_pb2 import SolverParameter as SolverParameter
from jaffe.netdef.resolve import resolve as resolve
from jaffe.netdef.rules import NetState as NetState
from jaffe.netdef.source import NetSource as NetSource
from jaffe.netdef.source import Spec as Spec
from jaffe.netdef.source import load as load
from jaffe.netdef.source import write_binary as write_binary
from jaffe.netdef.source import write_text as write_text
from jaffe.netdef.text import format_text as format_text
from jaffe.netdef.upgrade import upgrade_net as upgrade_net
from jaffe.netdef.upgrade import upgrade_solver as upgrade_solver
from jaffe.netdef.weights import read_weights as read_weights
