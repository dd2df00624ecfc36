"""Test the claims of the documents that no other experiment tests; one module for each claim.

    OMP_NUM_THREADS=1 PYTHONPATH=DATA/weights python experiments/findings/claims.py DATA OUT [--claim NAME]

DATA holds the image sets and weights/ that each module names. OUT receives the runs, claims.csv (columns: claim_rows.COLUMNS and the
module's name) and claims.md, which is written from claims.csv. A claim that was measured before is kept in claims.csv when --claim
names others; --claim none measures nothing and writes claims.md again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import claim_adversarial
import claim_bias
import claim_cost
import claim_discrimination
import claim_gradients
import claim_impressions
import claim_instances
import claim_occluded
import claim_protocols
import claim_regions
import claim_variants
import pandas as pd
import typer
from claim_report import markdown, read
from claim_rows import COLUMNS, Row

from evalkit.cli.script import run_script
from evalkit.errors import UserError, did_you_mean

MODULES: dict[str, Callable[[Path, Path], list[Row]]] = {
    "gradients": claim_gradients.measure,
    "instances": claim_instances.measure,
    "regions": claim_regions.measure,
    "protocols": claim_protocols.measure,
    "discrimination": claim_discrimination.measure,
    "bias": claim_bias.measure,
    "softmax": claim_variants.softmax,
    "ablated_input": claim_variants.ablated_input,
    "cost": claim_cost.measure,
    "impressions": claim_impressions.measure,
    "occluded": claim_occluded.measure,
    "adversarial": claim_adversarial.measure,
