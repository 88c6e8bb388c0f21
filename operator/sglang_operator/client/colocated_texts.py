"""What is said of ROLL's trainer and engines on the same GPUs (``colocated``, ``roll_places``)."""

COLOCATED = (
    "actor_train has the GPUs {train}, actor_infer {infer}, and they share {shared}: ROLL would "
    "hand weights over in the memory of GPUs that both have, but this pool's engines have GPUs of "
    "their own, whatever their ids, and die of it. Give the pool placement.mode Shared, which puts "
    "its engines on the trainer's GPUs (kubectl sglang convert --shared writes it), or write in "
    "ROLL's file, under actor_infer: device_mapping: {mapping}; then the pool may stay as it is"
)
HANDLES = (
    "update_parameter_in_bucket hands weights over in the memory of a GPU that trainer and engine "
    "share, but this pool's engines have GPUs of their own, whatever their ids, and die of it: "
    "give the pool placement.mode Shared, or actor_infer in ROLL's file a device_mapping that "
    "shares no id with actor_train's"
)
OTHER_NODES = (
    "ROLL counts {given} GPUs on each node (num_gpus_per_node), and the pool {found}: its ids "
    "would be other GPUs than ROLL's. Write the same number in both, which is what each of the "
    "trainer's pods has"
)
OTHER_PLACES = (
    "actor_infer's worker {rank} has the GPUs {given} in ROLL's file, and the pool's engine {rank} "
    "({engine}) has {found}: their ids are the trainer's GPUs, and have to be the same. Write one "
    "device_mapping and one num_gpus_per_worker in both, with ids in one order"
)
NO_SGLANG = (
    "ROLL's trainer packs the weights that it hands over on a GPU by classes of SGLang's "
    "(sglang.srt.weight_sync), and there is no sglang in this image: install it in the trainer's "
    "image, in any version that has them (0.5.2 and newer)"
)
NO_BUCKETS = (
    "ROLL hands weights over on a GPU as flattened buckets, which SGLang {version} does not take; "
    "use an image of 0.5.2 or newer"
)
OTHER_GPU = (
    "the trainer hands over memory of GPU {given}, and engine {rank} ({engine}) is on {found}: it "
    "would die of that. Each of the trainer's pods has to see its GPUs in the order in which it "
    "published them (CUDA_DEVICE_ORDER=PCI_BUS_ID), and node ranks have to be ROLL's (NODE_RANK)"
)
OTHER_COUNT = (
    "the trainer hands over {given} handles for the {found} GPUs of engine {rank} ({engine}): each "
    "rank of it takes its own, and it would die of that. ROLL gathers one from each GPU of the "
    "worker (num_gpus_per_worker); all of them have to be the trainer's too"
)
OTHER_FOLDER = (
    "no engine has its lock in {folder} of this pod, though engines of the pool {pool} run on its "
    "GPUs: trainer and engines have no folder in common there, and an engine dies of the first "
    "handle of GPU memory. Mount what the pool has at {folder} into the trainer's pods "
    "(placement.shared.sharedMemory; how-to/colocate.md)"
)
