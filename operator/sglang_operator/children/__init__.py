"""The objects a pool consists of, as Kubernetes JSON.  Pure.

A file for each: its pods (``engine_pod``, with ``constrained``, ``seated`` and ``origin``), and
what stands beside them, which ``kinds`` declares.
"""
