"""Nets for tests: normalisation."""

from __future__ import annotations

from tests.nets.case import Case, input_layer, one

SLOPES = 'slope_filler { type: "uniform" min: 0.5 max: 2 } bias_filler { type: "uniform" }'
SCALES = 'scale_filler { type: "uniform" min: 0.5 max: 2 } shift_filler { type: "uniform" }'

NETS = {
    "lrn": Case(one("LRN", "lrn_param { local_size: 3 alpha: 2 }")),
    "lrn_within": Case(one("LRN", "lrn_param { local_size: 3 alpha: 2 norm_region: WITHIN_CHANNEL }")),
    "lrn_negative": Case(one("LRN", "lrn_param { local_size: 3 alpha: -0.02 k: 2 }")),
    "lrn_power": Case(one("LRN", "lrn_param { local_size: 7 alpha: 2 beta: -1.5 k: 2 }")),
    "batch_norm": Case(one("BatchNorm")),
    "mvn": Case(one("MVN", "mvn_param { eps: 0.1 }")),
    "mvn_across": Case(one("MVN", "mvn_param { across_channels: true }")),
    "mvn_mean": Case(one("MVN", "mvn_param { normalize_variance: false }", inputs=input_layer("x", 2, 3, 5))),
    "mvn_vectors": Case(one("MVN", inputs=input_layer("x", 2, 5))),
    "normalize": Case(one("Normalize", 'norm_param { scale_filler { type: "uniform" } }')),
    "normalize_channels": Case(one("Normalize", "norm_param { across_spatial: false channel_shared: false }")),
    "bn": Case(one("BN", f"bn_param {{ {SLOPES} eps: 0.1 }}")),
    "bn_vectors": Case(one("BN", f"bn_param {{ {SLOPES} eps: 0.1 }}", inputs=input_layer("x", 5, 3))),
    "bn_segnet": Case(one("BN", f"bn_param {{ {SCALES} }}")),
    "bn_segnet_inference": Case(one("BN", f"bn_param {{ {SCALES} bn_mode: INFERENCE }}")),
}
