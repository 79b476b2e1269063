"""Nets for tests: normalisation."""

from __future__ import annotations

from tests.nets.case import Case, one

NETS = {
    "lrn": Case(one("LRN", "lrn_param { local_size: 3 alpha: 2 }")),
    "lrn_within": Case(one("LRN", "lrn_param { local_size: 3 alpha: 2 norm_region: WITHIN_CHANNEL }")),
    "batch_norm": Case(one("BatchNorm")),
}
