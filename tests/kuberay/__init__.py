"""A trainer that KubeRay's own operator makes: make kuberay."""
