"""Parts of the pipeline, under the name that tools know them by: `arc.profiler.stages`.

The daemon draws its own flame graphs, so that the rules are its own; nothing is added here.
"""

from __future__ import annotations

from arc.profiler.stages import COLOURS, RULES, Rule, Stage, stage_of, stage_of_frame

__all__ = ["COLOURS", "RULES", "Rule", "Stage", "stage_of", "stage_of_frame"]
