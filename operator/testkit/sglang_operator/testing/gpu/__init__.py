"""Real GPUs for the kit's real node: a device plugin, the host's own SGLang, and ``demo --gpu``.

Kubelet has to be told which card a container gets, and CDI alone tells it nothing: so a device
plugin is needed in any case, and what it answers (devices, mounts, variables) is all that a
container needs.  CDI would want files in the host's /etc/cdi, and a runtime that reads them.
"""
