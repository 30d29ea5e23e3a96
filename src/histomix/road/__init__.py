"""The whole road in one call: labels, features, evaluation, a head, maps, a viewer and the report."""

from .demo import COHORTS, DemoResult, demo
from .plan import RoadPlan, Step
from .run import RunResult, run
from .walk import STEPS

__all__ = ["COHORTS", "STEPS", "DemoResult", "RoadPlan", "RunResult", "Step", "demo", "run"]
