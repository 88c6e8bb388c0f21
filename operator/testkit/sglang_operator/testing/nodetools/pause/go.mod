module sglang-operator.dev/testing/nodetools/pause

go 1.26.0
