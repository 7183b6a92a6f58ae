"""ZeRO stages 1 to 3 from collectives, and by torch.

Read `block.py` first (what is kept), then `engine.py` (when), `gradients.py` and `layout.py`.
"""

from __future__ import annotations

from dto.runtime.zero.zero import Zero

__all__ = ["Zero"]
