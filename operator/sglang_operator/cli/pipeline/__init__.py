"""Trainers' files: ROLL pipelines, and the SGLangInference objects that one becomes.

``convert`` reads ROLL's alone.  A launch script of slime's (``slime``) is read for ``plan``.
"""
