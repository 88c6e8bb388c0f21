"""One ValidatingAdmissionPolicy for each known SGLang version, and one of the weights' Leases.

``python -m generators.policies`` writes ``manifests/policies`` from the argument schemas.  A policy
says at apply what the operator would say about the names of arguments, in the same words: it
refuses nothing that the operator accepts.  ``words`` asks the operator's own code what it says,
``expressions`` puts that into CEL, ``manifest`` makes the objects, and ``nearest`` is the search
for similar names as CEL does it; ``lease`` is the policy of the Leases.
"""
