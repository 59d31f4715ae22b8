"""Settings with which every registered attack and defence takes little time, for tests that run all of them."""

from __future__ import annotations

from typing import Any

# Those that would take long, or cannot be made without parameters.
ATTACK_SETTINGS: dict[str, dict[str, Any]] = {
    "adaptive": {"looks": 2},
    "astfocus": {"queries": 8, "samples": 4},
    "autoattack": {"queries": 8, "targets": 2, "confirm": 2, "draws": 2},
    "eot": {"draws": 3, "at_once": 2},
    "joint_flow": {"mus": [1.0]},
    "motion_i": {"lambdas": [1.0]},
    "motion_ii": {"lambdas": [10.0]},
    "rays": {"queries": 8},
    "smoothed": {"copies": 2},
    "square": {"queries": 8},
    "torchattacks": {"name": "PGD"},
    "tt": {"shifts": 1},
    "tt_mi": {"shifts": 1},
    "vbad": {"queries": 8, "samples": 4},
}
DEFENSE_SETTINGS: dict[str, dict[str, Any]] = {
    "ddim_inversion": {"steps": 1, "backbone": "pixel_tiny"},
    "diffpure_ddim": {"steps": 1, "backbone": "pixel_tiny"},
    "diffpure_ddpm": {"steps": 1, "backbone": "pixel_tiny"},
    "diffpure_fixed": {"steps": 1, "backbone": "pixel_tiny"},
    "diffpure_sde": {"steps": 1, "backbone": "pixel_tiny"},
    "encode_decode": {"backbone": "pixel_tiny"},
    "motion_consistency": {"steps": 1},
    "nonlocal_means": {"window": 3},
    "oudefend": {"stages": [3], "base_width": 4},
    "trained_behind": {"transform": "gaussian_blur"},
    "videopure": {"steps": 1},
}
# A size of each threat in the middle of what is tried.
SIZES = {
    "linf": 0.1,
    "l2": 1.0,
    "one-frame": 0.3,
    "flicker": 0.4,
    "rectangle": 4,
    "border": 1,
    "pixels": 6,
    "framing": 2,
    "mult-linf": 0.4,
    "mult-l2": 2.0,
}
