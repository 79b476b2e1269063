"""A run of several processes, on one host or many: they find one another, and when one dies the others end with it."""

from jaffe.train.processes.joining import advise as advise
from jaffe.train.processes.joining import barrier as barrier
from jaffe.train.processes.joining import broadcast as broadcast
from jaffe.train.processes.joining import first as first
from jaffe.train.processes.joining import join as join
from jaffe.train.processes.joining import leave as leave
from jaffe.train.processes.watch import EXIT_STATUS as EXIT_STATUS
