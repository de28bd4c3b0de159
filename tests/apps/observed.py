"""The app of `bare`, and the one line."""

from __future__ import annotations

from apps.bare import build
from clearway import Clearway

app = build()
road = Clearway(app)
