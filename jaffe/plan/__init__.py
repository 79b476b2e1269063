"""How a net would train on several devices: what they send to each other, how long a step takes, what to divide."""

from jaffe.plan.collectives import Found as Found
from jaffe.plan.collectives import collectives as collectives
from jaffe.plan.machine import MACHINES as MACHINES
from jaffe.plan.machine import Machine as Machine
from jaffe.plan.machine import bytes_sent as bytes_sent
from jaffe.plan.machine import machine_of as machine_of
from jaffe.plan.plan import LayerPlan as LayerPlan
from jaffe.plan.plan import Plan as Plan
from jaffe.plan.plan import plan as plan
