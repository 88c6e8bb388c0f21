"""Real nodes for the test kit: kubelet, containerd, runc and real containers (Linux, as root).

A plane with real nodes has a network namespace of its own, in which everything lives that has an
address: the control plane, the nodes, the pods, the names' server.  Nothing leads out of it but a
relay from 127.0.0.1 to the API server.  Each node is a process that is the first of its own PID
namespace, with its own view of the file system; when it dies, everything on the node dies.
"""
