"""Spans: what `serve` and `worker` do, step by step, for a collector of OpenTelemetry's where one is configured.

Whoever makes spans uses this seam, which costs next to nothing while nobody wants them; `otel.py` alone knows the
library. Attributes are named by OpenTelemetry's semantic conventions and have values of our own vocabulary: never a
text, a value, a user or a message.
"""

from __future__ import annotations

from agentdb_mcp.telemetry import told
from agentdb_mcp.telemetry.spans import Attributes, Backend, Kind, Span, collecting, span, traced

__all__ = ["Attributes", "Backend", "Kind", "Span", "collecting", "span", "told", "traced"]
