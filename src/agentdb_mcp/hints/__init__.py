"""What Postgres's errors teach: an error and the catalog's names → place, names that were meant, a next step.

Pure: no I/O, no clock. What `advice` says is ours alone. Lines of `place` and `told` hold the caller's text and names
from the catalog, which agents wrote: they belong inside the frame.
"""

from agentdb_mcp.hints.advice import advice
from agentdb_mcp.hints.lookups import Lookup, lookup
from agentdb_mcp.hints.names import visible, written
from agentdb_mcp.hints.place import place
from agentdb_mcp.hints.told import told

__all__ = ["Lookup", "advice", "lookup", "place", "told", "visible", "written"]
