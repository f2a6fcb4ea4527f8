"""Tests of plans: arrange a scene (`plan_scenes`), look once, and assert what is decided."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
