"""The pages that are made from the code and the manifests, and the CLI's picture of the definition.

``python -m generators.docs`` (``make docs``) writes ``cli/structure.json``,
``operator/docs/errors.md`` and ``operator/docs/reference``.
"""
