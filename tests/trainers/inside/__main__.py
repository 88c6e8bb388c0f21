"""``python -m tests.trainers.inside``: one trainer's flows, told by a line of JSON on input."""

import faulthandler
import importlib
import json
import sys

faulthandler.dump_traceback_later(120, repeat=True)  # into the log, of a flow that hangs
job = json.loads(sys.stdin.readline())
importlib.import_module(f"tests.trainers.inside.{job['trainer']}").run(job)
