"""Small networks with the operations and patterns that users bring."""

from __future__ import annotations

from tests.networks.cnn import zoo_layers, zoo_nasty, zoo_patterns
from tests.networks.cnn.zoo_parts import PARTLY as PARTLY
from tests.networks.cnn.zoo_parts import ZOO as ZOO

FILLED_BY = zoo_layers, zoo_nasty, zoo_patterns
