"""What real engines on real GPUs do under the operator: ``make gpu``.

A test is marked with the GPUs that it needs (``gpu1``, ``gpu2``) and skips, with the reason, where
there are fewer.  What the engines are is told by ``SGLANG_GPU``, which has the arguments of ``demo
--gpu``: ``SGLANG_GPU='--python /opt/sglang/bin/python' make gpu``.  With ``--stand-in`` the same
code runs without GPU and SGLang.

All tests share one control plane and, as far as they can, one engine: a start takes minutes.  Each
run adds its figures to one file, ``SGLANG_GPU_REPORT``, so that the suite can be run in parts.
"""
