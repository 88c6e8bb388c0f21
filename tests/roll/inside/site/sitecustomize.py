"""Loaded by every Python process of a run: ROLL's actors as well.  See ``inside.standins``."""

import os

if os.environ.get("ROLL_MODULES"):
    from tests.roll.inside import standins

    standins.install()
