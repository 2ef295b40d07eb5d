"""How long a window of tokens is where nothing is said: 512, or as long as the model's positions reach."""

from __future__ import annotations

import json
from pathlib import Path

LENGTH = 512
POSITIONS = ("max_position_embeddings", "n_positions")
FROM_PADDING = ("roberta", "camembert", "mpnet", "longformer", "data2vec-text", "xmod", "ibert")  # count from behind it


def window_length(model: str) -> int:
    """Return min(512, the positions that the configuration of a model's folder states); 512 where it states none."""
    try:
        config = json.loads((Path(model) / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return LENGTH  # a model of a package, or one that its reader refuses
    if not isinstance(config, dict):
        return LENGTH
    text = config.get("text_config")
    places = [config, *([text] if isinstance(text, dict) else [])]
    found = [place[name] for place in places for name in POSITIONS if isinstance(place.get(name), int)]
    padding = config.get("pad_token_id")
    if any(name in str(config.get("model_type")) for name in FROM_PADDING):
        found = [n - (padding if isinstance(padding, int) else 1) - 1 for n in found]
    return min([LENGTH, *(int(n) for n in found if n > 1)])
