"""Models and engines for the tests of memory."""

from sglang_operator.engine import versions
from sglang_operator.memory import cards, engine, models, reading, settings
from sglang_operator.memory.shape import Heads
from sglang_operator.memory.weights import Division

H100, H200 = cards.CARDS["H100-80GB"], cards.CARDS["H200-141GB"]


def config(hidden=4096, intermediate=12288, layers=36, heads=32, kv_heads=8, **more):
    """A dense model's config.json."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        **more,
    }


def known_config(model):
    """The config of a model that is shipped as data."""
    found = models.config(model)
    assert found is not None, model
    return found


def known(model):
    """Its shape."""
    return reading.shape(known_config(model))


def heads(given):
    """The heads of a model without latent attention."""
    attention = reading.shape(given).attention
    assert isinstance(attention, Heads)
    return attention


def request(model, card=H100, version="0.5.14", sequence=None, resident=0.0, **fields):
    """An engine of a model; ``tp``, ``pp``, ``ep`` and ``attention_dp`` divide it."""
    own = {key: fields.pop(key) for key in ("tp", "pp", "ep", "attention_dp") if key in fields}
    return engine.Request(
        shape=known(model) if isinstance(model, str) else model,
        card=card,
        version=versions.parse(version),
        settings=settings.Settings(division=Division(**own), **fields),
        sequence=engine.Sequence(prompt=sequence[0], response=sequence[1]) if sequence else None,
        resident_gib=resident,
    )
