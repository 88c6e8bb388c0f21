"""What one of ROLL's requests is over HTTP, and what of the answer ROLL reads as tensors.

ROLL's own strategy calls SGLang in its process (generate_request of sglang_strategy.py at
8eb27cc2).  Over HTTP pictures are text, and so are the experts that each token was routed to.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_operator.client import texts
from sglang_operator.client.calls import Json
from sglang_operator.client.errors import Unsupported

_SAME = ("input_ids", "sampling_params", "rid", "return_logprob")


def body(payload: Mapping[str, Any], *, replay: bool = False) -> Json:
    """The body of /generate.  Raises Unsupported for videos and sounds."""
    found = {key: payload[key] for key in _SAME if payload.get(key) is not None}
    if replay:
        found["return_routed_experts"] = True
    both = payload.get("multi_modal_data")
    if both is None:
        return found
    found["input_ids"] = [int(token) for token in both["prompt_token_ids"]]
    media = both.get("multi_modal_data") or {}
    for kind in sorted({*media} - {"image"}):
        if media[kind] is not None and len(media[kind]):
            raise Unsupported(texts.ROLL_MEDIA.format(kind=kind))
    if pictures := media.get("image"):
        many = pictures if isinstance(pictures, list | tuple) else [pictures]
        found["image_data"] = [_picture(each) for each in many]
    return found


def _picture(picture: Any) -> Any:
    """A picture as a data URL, without loss; an address stays one."""
    if isinstance(picture, str):
        return picture
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def unfinished(payload: Mapping[str, Any]) -> Json:
    """What ROLL reads as a request that was aborted before it had a token."""
    samples = int(payload["sampling_params"].get("n") or 1)
    found: Json = {
        "output_token_ids": [[] for _ in range(samples)],
        "finish_reasons": ["abort"] * samples,
    }
    if payload.get("return_logprob"):
        found["output_logprobs"] = [[] for _ in range(samples)]
    return found


def with_experts(answers: Sequence[Json], layers: int, chosen: int) -> list[Json]:
    """The answers with their routed experts as ROLL's tensors: by token, layer and place.

    SGLang sends them as the bytes of 32-bit numbers (tokenizer_manager.py).  Raises Unsupported
    where the model has other layers, or chooses other numbers of experts.
    """
    import torch

    found = []
    for answer in answers:
        about = answer["meta_info"]
        text = about.get("routed_experts")
        if isinstance(text, str):
            numbers = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.int32)
            if numbers.numel() % (layers * chosen):
                raise Unsupported(
                    texts.ROLL_EXPERTS.format(count=numbers.numel(), layers=layers, chosen=chosen)
                )
            experts = numbers.reshape(-1, layers, chosen)
            answer = {**answer, "meta_info": {**about, "routed_experts": experts}}
        found.append(answer)
    return found
