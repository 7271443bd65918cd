"""`python -m agentdb_mcp` is the command line."""

from agentdb_mcp.cli import main

if __name__ == "__main__":
    main()
