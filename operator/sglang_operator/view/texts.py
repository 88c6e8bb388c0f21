"""The words of the pictures: headings, legends and notes."""

NOT_SEEN_YET = "NotSeenYet"
MAP_NODES = "where the engines are: nodes × GPUs"
MAP_IDS = "what device_mapping names: node_rank × gpu_rank"
MAP_COUNTED = (
    "Kubernetes tells how many GPUs of a node an engine has, not which ones: engines are drawn "
    "from the left"
)
MAP_COUNTED_NO_NODES = (
    "nodes may not be read, so free GPUs are not shown; which GPUs of a node an engine has is not "
    "known: engines are drawn from the left"
)
MAP_IDS_NOTE = "ids as ROLL counts them; a cell that is split is named by two pools"
MAP_HIDDEN = "and {nodes} more rows without engines, {gpus} GPUs"
MAP_DRAWN = "engines are drawn from the left"
MAP_DRAWN_NO_NODES = f"nodes may not be read, so free GPUs are not shown; {MAP_DRAWN}"
MAP_OVERLAP = (
    "{first} and {second} both name GPUs {ids}: in {mode} mode each pool gets GPUs of its own, so "
    "these are counted twice"
)
MAP_SHARED = "{first} and {second} both name GPUs {ids}, and share them"
MAP_NEIGHBOURS = (
    "engines of {first} and {second} are on the same {count} GPUs: at most one of the two may be "
    "awake"
)
MAP_EMPTY = "no node has GPUs, and no engine has a node"
MAP_FREE = "· a GPU that no pool has"
MAP_STUCK = "cannot start"
MAP_MORE_UNPLACED = "and {count} more engines without a node"
